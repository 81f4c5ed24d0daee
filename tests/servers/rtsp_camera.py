#!/usr/bin/python3
"""A network camera: GStreamer's RTSP server with the videos of a folder, each from its beginning for each client.

rtsp_camera.py FOLDER PORT [METHOD USER PASSWORD]: FOLDER/h264.mkv is /h264, FOLDER/h265.mkv is /h265. PORT 0 is any free one. METHOD
is `basic` or `digest`. Prints the port once it listens on the loopback interface.

Needs Debian's python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and gstreamer1.0-plugins-bad.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

ROLE = "viewer"


def protect(server, factories, method, user, password):
    """Only that user may see the videos."""
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, ROLE)
    if method == "basic":
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    else:
        auth.set_supported_methods(2)  # GST_RTSP_AUTH_DIGEST
        auth.add_digest(user, password, token)
    server.set_auth(auth)
    for factory in factories:
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_role(ROLE)
        for action in ("access", "construct"):
            permissions.add_permission_for_role(ROLE, f"media.factory.{action}", True)
        factory.set_permissions(permissions)


def main():
    folder, port, *login = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factories = []
    for codec in ("h264", "h265"):
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f'( filesrc location="{folder}/{codec}.mkv" ! matroskademux ! {codec}parse '
                           f"! rtp{codec}pay name=pay0 pt=96 config-interval=-1 )")
        server.get_mount_points().add_factory(f"/{codec}", factory)
        factories.append(factory)
    if login:
        protect(server, factories, *login)
    if server.attach(None) == 0:
        sys.exit(f"rtsp_camera.py: cannot listen on port {port}")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
