//! Each target catches broken code: it runs against code with a fault put in, and has to panic.

#![expect(clippy::expect_used, reason = "tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::seal::unseal;
use countersign_core::{
    Audience, Clock, EndResult, Ending, KeyRing, KeyRingError, Policy, StoreError, TokenId, TokenStore,
};
use countersign_fuzz_targets::gate_request::{Asked, World};
use countersign_fuzz_targets::{
    callers, configuration, gate_request, handshake_request, jwt, key_ring, names, token_text,
    tracker_answer, xmlrpc_body,
};
use countersign_gate::RequestPath;
use countersign_server::{CallersError, parse_callers};
use countersign_store::memory::MemoryStore;
use countersign_testkit::{Hooked, StoreHook};
use countersign_xmlrpc::RpcResponse;
use countersign_xmlrpc::read_response;
use jiff::Timestamp;

const SEALED: &[u8] = include_bytes!("../../../fuzz/corpus/token_text/sealed-bound");
const TWICE: &[u8] = include_bytes!("../../../fuzz/corpus/handshake_request/twice");
const NONE: &[u8] = include_bytes!("../../../fuzz/corpus/jwt/none");
const SHARED: &[u8] = include_bytes!("../../../fuzz/corpus/jwt/shared-secret");
const SUBJECT: &[u8] = include_bytes!("../../../fuzz/corpus/jwt/another-subject");
const RETRY: &[u8] = include_bytes!("../../../fuzz/corpus/handshake_request/retry");
const REVOKED: &[u8] = include_bytes!("../../../fuzz/corpus/handshake_request/revoked");

/// Whether this panics, and with these words.
#[track_caller]
fn is_caught(words: &str, broken: impl FnOnce()) {
    let panic = catch_unwind(AssertUnwindSafe(broken)).expect_err("the fault is not caught");
    let said =
        panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(ToString::to_string));
    let said = said.unwrap_or_default();
    assert!(said.contains(words), "it is caught for another reason: {said}");
}

#[test]
fn unsigned_jwt_is_caught() {
    is_caught("a token without a signature", || jwt::check(NONE, |_, _, _, now| Ok(now)));
}

#[test]
fn jwt_with_a_shared_secret_is_caught() {
    is_caught("a token with the algorithm HS256", || jwt::check(SHARED, |_, _, _, now| Ok(now)));
}

#[test]
fn jwt_of_another_subject_is_caught() {
    is_caught("another subject", || {
        let broken: jwt::Judge = |_, _, _, now| Ok(now + std::time::Duration::from_mins(1));
        jwt::check(SUBJECT, broken);
    });
}

#[test]
fn disclosed_jwt_is_caught() {
    is_caught("a part of the input is told", || {
        jwt::check(SUBJECT, |_, _, token, _| Err(String::from_utf8_lossy(token).into_owned()));
    });
}

#[test]
fn token_with_two_spellings_is_caught() {
    is_caught("a text is accepted that sealing does not give", || {
        let upper = SEALED.to_ascii_uppercase();
        token_text::check(&upper, |text, ring| unseal(&text.to_lowercase(), ring));
    });
}

#[test]
fn malleable_token_is_caught() {
    let longer = include_bytes!("../../../fuzz/corpus/token_text/change-longer");
    is_caught("a changed text is accepted", || {
        token_text::check(longer, |text, ring| unseal(text.get(..71).unwrap_or(text), ring));
    });
}

#[test]
fn ambiguous_path_is_caught() {
    let parameter = include_bytes!("../../../fuzz/corpus/gate_request/parameter");
    is_caught("takes /issue1;/../user1 for another path", || {
        gate_request::check(parameter, |_| RequestPath::parse("/issue1"), gate_request::ask);
    });
}

#[test]
fn gate_that_overlooks_a_header_is_caught() {
    for (words, input) in [
        ("has the user header removed", "GET /issue1\nCookie: {session}\nConnection: close, X-Remote-User"),
        ("has the user header removed", "GET /issue1\nCookie: {session}\nConnection: x_remote.USER"),
        ("asks for another method", "POST /issue1?a&_method=DELETE\nCookie: {session}"),
        ("asks for another method", "POST /issue1?%5fmethod=DELETE\nCookie: {session}"),
        ("asks for another method", "POST /issue1?.method=DELETE\nCookie: {session}"),
        ("asks for another method", "POST /issue1\nCookie: {session}\nX_HTTP_Method-Override: PUT"),
    ] {
        gate_request::target(input.as_bytes());
        is_caught(words, || {
            let says_yes = |world: &World, _: &Asked| (world.yes(), Some("launchpad".to_owned()));
            gate_request::check(input.as_bytes(), RequestPath::parse, says_yes);
        });
    }
}

#[test]
fn byte_beyond_ascii_reaches_the_gate() {
    // Bytes of Latin-1, of which a header may have any: the cookie before it is the session's all the same.
    let input = b"GET /issue1\nCookie: a=\xe9; {session}\nX-Note: \xff";
    is_caught("the header has arrived", || {
        gate_request::check(input, RequestPath::parse, |world, asked| {
            let (status, user) = gate_request::ask(world, asked);
            assert_eq!((status, user.as_deref()), (world.yes(), Some("launchpad")));
            panic!("the header has arrived");
        });
    });
}

#[test]
fn unstable_normalisation_is_caught() {
    is_caught("normalising twice changes something", || {
        names::check(b"https://trac.example.org/a", |text| Audience::parse(&format!("{text}/x")));
    });
}

#[test]
fn key_ring_that_reveals_secrets_is_caught() {
    let ring = include_bytes!("../../../fuzz/corpus/key_ring/short-secret");
    is_caught("a secret is told", || {
        key_ring::check(ring, |text| Err(KeyRingError::Format(text.to_owned())));
    });
}

#[test]
fn misread_key_ring_is_caught() {
    is_caught("writing changes the ring", || {
        let ring = include_bytes!("../../../fuzz/corpus/key_ring/one");
        key_ring::check(ring, |text| {
            let other = text.replace("id = \"00000000\"", "id = \"00000001\"");
            if other == text { KeyRing::parse(&text.replace("0001", "0002")) } else { KeyRing::parse(&other) }
        });
    });
}

#[test]
fn answer_read_in_one_spelling_only_is_caught() {
    let answer = include_bytes!("../../../fuzz/corpus/tracker_answer/login");
    is_caught("what was written cannot be read", || {
        tracker_answer::check(answer, |kind, body| {
            let is_strange = body.windows(4).any(|part| part == b"<i8>");
            if is_strange { None } else { read_response(kind, body) }
        });
    });
}

#[test]
fn unvalidated_callers_file_is_caught() {
    let file = include_bytes!("../../../fuzz/corpus/callers/two");
    let twice: callers::Read = |text| parse_callers(text).map(|callers| [callers.clone(), callers].concat());
    is_caught("a caller is there twice", || callers::check(file, twice));
    let idle: callers::Read = |text| {
        parse_callers(text).map(|mut callers| {
            callers[0].scopes.clear();
            callers
        })
    };
    is_caught("no scopes", || callers::check(file, idle));
    let talkative: callers::Read = |text| Err(CallersError::Line { line: 1, what: text.to_owned() });
    let secret = include_bytes!("../../../fuzz/corpus/callers/plain-secret");
    is_caught("a secret is told", || callers::check(secret, talkative));
}

#[test]
fn unvalidated_configuration_is_caught() {
    let careless = |_: &str| Ok(Policy::default());
    is_caught("spent_status = 404 is accepted", || configuration::check(b"spent_status = 404", careless));
    is_caught("an unknown setting is accepted", || configuration::check(b"spent_status = 410", careless));
    is_caught("no reason is given", || configuration::check(b"", |_| Err(String::new())));
}

#[test]
fn malformed_xml_response_is_caught() {
    let call = include_bytes!("../../../fuzz/corpus/xmlrpc_body/python-one.xml");
    is_caught("XML cannot carry", || {
        xmlrpc_body::check(call, |answer| RpcResponse {
            document: answer.document.replace('é', "\u{8}"),
            ..answer
        });
    });
    is_caught("well-formed XML", || {
        xmlrpc_body::check(call, |answer| RpcResponse {
            document: answer.document.replace("</value>", ""),
            ..answer
        });
    });
}

#[test]
fn fault_that_quotes_a_token_is_caught() {
    let call = include_bytes!("../../../fuzz/corpus/xmlrpc_body/token-of-nobody.xml");
    is_caught("a token is told", || {
        xmlrpc_body::check(call, |answer| {
            let document = answer.document.replace("that token", "cs1aaaaaabtro54vzcutvcvok3dmtdegv4b");
            RpcResponse { document, ..answer }
        });
    });
}

#[test]
fn internal_fault_is_caught() {
    let call = include_bytes!("../../../fuzz/corpus/xmlrpc_body/unknown-method.xml");
    is_caught("a caller cannot cause fault -32603", || {
        xmlrpc_body::check(call, |answer| RpcResponse {
            fault_code: Some(-32603),
            document: answer.document.replace("-32601", "-32603"),
            ..answer
        });
    });
}

#[test]
fn store_without_single_use_is_caught() {
    is_caught("accepted twice, without the first key", || handshake_request::check(TWICE, generous));
    is_caught("accepted twice, without the first key", || handshake_request::check(RETRY, generous));
    is_caught("a token that was accepted is not consumed", || handshake_request::check(REVOKED, generous));
}

#[test]
fn store_that_records_nothing_is_caught() {
    is_caught("a token that was accepted is not consumed", || handshake_request::check(TWICE, idle));
}

fn generous(clock: &dyn Clock) -> Arc<dyn TokenStore> {
    Hooked::new(Arc::new(MemoryStore::new(clock)), Broken { keeps: true })
}

fn idle(clock: &dyn Clock) -> Arc<dyn TokenStore> {
    Hooked::new(Arc::new(MemoryStore::new(clock)), Broken { keeps: false })
}

/// A store that answers every end with [`EndResult::Recorded`].
#[derive(Debug)]
struct Broken {
    /// Whether it records what it can.
    keeps: bool,
}

#[async_trait]
impl StoreHook for Broken {
    async fn end(
        &self,
        store: &dyn TokenStore,
        id: TokenId,
        expires: Timestamp,
        ending: Ending,
        _: Option<u64>,
    ) -> Result<EndResult, StoreError> {
        if self.keeps {
            store.end(id, expires, ending).await?;
        }
        Ok(EndResult::Recorded)
    }
}
