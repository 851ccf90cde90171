//! Reading a call and writing its answer. `cargo bench -p countersign-xmlrpc`

#![expect(clippy::unwrap_used, reason = "a measurement, not a part of the product")]

use countersign_xmlrpc::{Value, read_call, response_document};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// As Python's `xmlrpc.client` writes it.
const BARE: &str = "<?xml version='1.0'?>\n<methodCall>\n<methodName>newBugTrackerToken</methodName>\n\
                    <params>\n</params>\n</methodCall>\n";

const WITH_TRACKER: &str = "<?xml version='1.0'?>\n<methodCall>\n<methodName>newBugTrackerToken</methodName>\n\
                            <params>\n<param>\n<value><string>https://bugs.example.org/</string></value>\n\
                            </param>\n</params>\n</methodCall>\n";

#[divan::bench(args = [BARE, WITH_TRACKER])]
fn document_is_read(bencher: Bencher<'_, '_>, call: &str) {
    read_call(Some("text/xml"), call.as_bytes()).unwrap();
    bencher.bench(|| read_call(Some("text/xml"), black_box(call.as_bytes())));
}

/// The first needs the serialiser, because of its ampersand; the second is like a token.
#[divan::bench(args = ["cs1abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrstuvwxyz234567abc&",
                       "cs1abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrstuvwxyz234567abcd"])]
fn writes(bencher: Bencher<'_, '_>, text: &str) {
    bencher.with_inputs(|| Value::String(text.to_owned())).bench_values(response_document);
}
