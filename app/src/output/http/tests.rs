use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::config::notify::Form;

/// A certificate for 127.0.0.1 until 2120, and its key, which protects nothing.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBWDCB/6ADAgECAgEBMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCTEyNy4wLjAu\n\
MTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowFDESMBAGA1UEAwwJ\n\
MTI3LjAuMC4xMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEvjGYJbKDue0q1T5C\n\
MTxGSvf186js5Ni3jTyTlpaICrAoxbMgJKxF9v83Abi8WbRk0arDgFfc5XY5Y36f\n\
2AFZMaNAMD4wDwYDVR0RBAgwBocEfwAAATAMBgNVHRMBAf8EAjAAMB0GA1UdDgQW\n\
BBS51liZ17+ssv7iGXJxN4gGclnrMjAKBggqhkjOPQQDAgNIADBFAiEAimX2xk07\n\
dmVqVkQh2SpWtRNW1AuTKjssvZtdcxrNADECIBUGg98sxpoqAYYFV5tb3v2k3yMU\n\
F29wF881uUCbblAi\n\
-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgQS8BIx8Uvwoc4iCS\n\
acakDWyYRMsFJciAlhuvBbeu/4+hRANCAAS+MZglsoO57SrVPkIxPEZK9/XzqOzk\n\
2LeNPJOWlogKsCjFsyAkrEX2/zcBuLxZtGTRqsOAV9zldjljfp/YAVkx\n\
-----END PRIVATE KEY-----\n";

/// A certificate for the same address with another key.
const OTHER_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBWDCB/6ADAgECAgECMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCTEyNy4wLjAu\n\
MTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowFDESMBAGA1UEAwwJ\n\
MTI3LjAuMC4xMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEhXbKpWJB7KNCmX+c\n\
myGFsS/VYuQgbSxo7mhaghNX7tAGJoAXMQQowEU/SV+/BxhqZDdt8AZtQxBbuXNQ\n\
pXGJAaNAMD4wDwYDVR0RBAgwBocEfwAAATAMBgNVHRMBAf8EAjAAMB0GA1UdDgQW\n\
BBSXdjeFr4yC4uOvoVS1rbFilH8v4zAKBggqhkjOPQQDAgNIADBFAiB8SkyONxJ2\n\
8kTY7j+neRcOwlAHBdQcGvOiHQEX29/5UgIhALr1l0MKTjJzP3pUY+1g3Jb1Eoy6\n\
e3j8VE9Opuhwp1s9\n\
-----END CERTIFICATE-----\n";

const LONG: Duration = Duration::from_secs(600);

fn http(url: String, credentials: Credentials, ca_file: Option<PathBuf>) -> Http {
    Http { form: Form::Webhook, url, credentials, ca_file, retries: 0 }
}

fn post(http: &Http, timeout: Duration) -> Result<(), Failure> {
    let content_type = "text/plain".to_owned();
    Client::new(http, timeout).post(Request {
        content_type,
        headers: vec![("X-A", "b".to_owned())],
        body: b"body".to_vec(),
    })
}

/// Reads one request: its head and its body.
fn read(stream: impl std::io::Read) -> (String, Vec<u8>) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

/// A server for one connection; returns its port and what `serve` returns.
fn serve<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, std::thread::spawn(move || serve(listener.accept().unwrap().0)))
}

fn answering(answer: &'static str) -> (u16, JoinHandle<(String, Vec<u8>)>) {
    serve(move |mut stream| {
        let request = read(&stream);
        stream.write_all(answer.as_bytes()).unwrap();
        request
    })
}

#[test]
fn a_request_has_its_headers_body_and_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "s3cret\n").unwrap();
    for (credentials, expected) in [
        (Credentials::None, None),
        (Credentials::Token(file.clone()), Some("authorization: Bearer s3cret\r\n")),
        (Credentials::Password("me".to_owned(), file), Some("authorization: Basic bWU6czNjcmV0\r\n")),
    ] {
        let (port, server) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        post(&http(format!("http://127.0.0.1:{port}/a?b=c"), credentials.clone(), None), LONG).unwrap();
        let (head, body) = server.join().unwrap();
        assert!(head.starts_with("POST /a?b=c HTTP/1.1\r\n") && body == b"body", "{head}");
        let found = |line: &str| head.to_lowercase().contains(&line.to_lowercase());
        assert!(
            found("x-a: b\r\n") && found("content-type: text/plain\r\n") && found("user-agent: spotter/"),
            "{head}"
        );
        assert_eq!(found("authorization:"), expected.is_some(), "{head}");
        assert!(expected.is_none_or(|expected| head.contains(&expected[15..])), "{credentials:?}: {head}");
    }
}

#[test]
fn answers_are_judged() {
    for (answer, expected, is_transient) in [
        ("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "the server answered 500", true),
        ("HTTP/1.1 429 No\r\ncontent-length: 0\r\n\r\n", "the server answered 429", true),
        ("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", "answered 401: it does not accept this token", false),
        ("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "answered 404: there is nothing", false),
        (
            "HTTP/1.1 301 No\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n",
            "answered 301: it has moved",
            false,
        ),
        ("", "no connection", true),
        ("SSH-2.0-OpenSSH\r\n", "does not answer in HTTP", true),
    ] {
        let (port, server) = answering(answer);
        let failure =
            post(&http(format!("http://127.0.0.1:{port}/hidden"), Credentials::None, None), LONG).unwrap_err();
        server.join().unwrap();
        assert!(failure.message.contains(expected) && !failure.message.contains("hidden"), "{answer}: {failure:?}");
        assert_eq!(failure.is_transient, is_transient, "{failure:?}");
    }
}

#[test]
fn a_server_that_hangs_or_refuses_fails_in_time() {
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let (port, server) = serve(move |stream| {
        // Until the test has its answer.
        let _ = ends.recv();
        drop(stream);
    });
    let failure = post(&http(format!("http://127.0.0.1:{port}/"), Credentials::None, None), Duration::from_millis(200))
        .unwrap_err();
    assert_eq!(failure, Failure { message: "no answer within 0.2 s".to_owned(), is_transient: true });
    drop(end);
    server.join().unwrap();
    // Nobody listens there any more.
    let failure = post(&http(format!("http://127.0.0.1:{port}/"), Credentials::None, None), LONG).unwrap_err();
    assert!(failure.is_transient && failure.message.starts_with("no connection"), "{failure:?}");
}

#[test]
fn a_server_with_a_trusted_certificate_is_told_and_any_other_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    std::fs::write(&trusted, CERTIFICATE).unwrap();
    let serve_tls = || {
        serve(|stream| {
            let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config =
                rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
            let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let mut start = [0];
            // A client that does not trust this server closes the connection.
            stream.read_exact(&mut start).ok()?;
            let request = read(start.chain(&mut stream));
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            Some(request)
        })
    };
    let (port, server) = serve_tls();
    post(&http(format!("https://127.0.0.1:{port}/a"), Credentials::None, Some(trusted)), LONG).unwrap();
    assert_eq!(server.join().unwrap().unwrap().1, b"body");
    let other = folder.path().join("other.pem");
    std::fs::write(&other, OTHER_CERTIFICATE).unwrap();
    let (port, server) = serve_tls();
    let failure = post(&http(format!("https://127.0.0.1:{port}/a"), Credentials::None, Some(other)), LONG).unwrap_err();
    assert!(!failure.is_transient && failure.message.starts_with("no secure connection: "), "{failure:?}");
    assert_eq!(server.join().unwrap(), None, "nothing was sent");
}

#[test]
fn unreadable_secrets_and_certificates_are_named_without_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let missing = folder.path().join("missing");
    for (credentials, ca_file, expected) in [
        (Credentials::Token(missing.clone()), None, "missing: cannot be read"),
        (Credentials::Token(write("empty", b"\n")), None, "empty: expected one line"),
        (Credentials::Token(write("two", b"hidden\nhidden\n")), None, "two: expected one line"),
        (Credentials::Token(write("latin1", b"hidden\xe9")), None, "latin1: not UTF-8 text"),
        (Credentials::Token(write("large", &[b'x'; 5000])), None, "large: cannot be read"),
        (Credentials::None, Some(missing), "missing: "),
        (Credentials::None, Some(write("none.pem", b"hidden")), "none.pem: expected at least one `BEGIN CERTIFICATE`"),
    ] {
        let http = http("https://127.0.0.1:1/".to_owned(), credentials, ca_file);
        let found = problems(&http);
        // Machines without certificates of their own have a second one.
        assert!(found.iter().any(|found| found.contains(expected)), "{expected}: {found:?}");
        let failure = post(&http, LONG).unwrap_err();
        for message in found.iter().chain([&failure.message]) {
            assert!(!message.contains("hidden"), "{message}");
        }
        assert!(!failure.is_transient, "{failure:?}");
    }
}
