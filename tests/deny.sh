#!/bin/bash
# Checks the dependencies against deny.toml: licences, bans, sources, known vulnerabilities, unmaintained crates, and
# releases yanked from crates.io.
#
#   tests/deny.sh [--keep] [ARGUMENT of cargo-deny]...
#
# Vulnerabilities come from RustSec's advisory database (CC0), a Git repository on GitHub. If it is unreachable,
# tests/advisories stands in, a dated copy of what concerns the crates of Cargo.lock; --keep updates it from the
# database. Yanked releases need the index of crates.io.
set -euo pipefail
cd "$(dirname "$0")/.."
keep=
[ "${1:-}" = --keep ] && { keep=1; shift; }
deny=$(tests/cargo_tool.sh cargo-deny 0.20.2)
kept=tests/advisories
# cargo-deny names the folder after a hash of the database's address.
folder=advisory-db-3157b0e258782691

"$deny" "$@" check --hide-inclusion-graph licenses bans sources
# Cargo's copy of the index may be as old as the crates that it downloaded.
if ! cargo update --quiet --dry-run; then
    echo '*** The index of crates.io could not be had: crates yanked since they were downloaded are NOT found.' >&2
fi

if "$deny" "$@" fetch db; then
    "$deny" "$@" check --hide-inclusion-graph --deny index-failure advisories
    if [ -n "$keep" ]; then
        database=${CARGO_HOME:-$HOME/.cargo}/advisory-dbs/$folder
        rm -rf "$kept"
        mkdir "$kept"
        sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.lock | sort -u | while read -r name; do
            if [ -d "$database/crates/$name" ]; then cp -r "$database/crates/$name" "$kept"; fi
        done
        git -C "$database" log -1 --format='%cs, commit %H' >"$kept/state"
    fi
    exit
fi
echo "*** The advisory database could not be fetched: vulnerabilities are those known on $(cat "$kept/state")." >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A database in the form in which cargo-deny keeps a fetched one.
mkdir -p "$work/$folder/.git"
touch "$work/$folder/.git/FETCH_HEAD"
cp -r "$kept" "$work/$folder/crates"
sed "s|^\[advisories\]\$|&\ndb-path = \"$work\"|" deny.toml >"$work/deny.toml"
"$deny" --offline --config "$work/deny.toml" "$@" check --hide-inclusion-graph --deny index-failure advisories
