//! Spans, as a collector gets them.

use std::collections::BTreeMap;

use countersign_testkit::until;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use reqwest::Method;

use crate::fixture::{Place, Server};
use crate::http::{self, Answer, send};
use crate::receiver::{Post, Receiver};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A `traceparent` with these flags.
fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A span, as far as it matters here.
#[derive(Debug)]
struct Span {
    name: String,
    trace: String,
    id: String,
    parent: String,
    kind: i32,
    /// 2: an error.
    status: i32,
    state: String,
    attributes: BTreeMap<String, String>,
    events: Vec<(String, BTreeMap<String, String>)>,
    resource: BTreeMap<String, String>,
}

impl Span {
    fn is(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn spans(posts: &[Post]) -> Vec<Span> {
    let mut spans = Vec::new();
    for post in posts {
        assert!(post.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{post:?}");
        assert_eq!(post.header("content-type"), "application/x-protobuf");
        for of_resource in ExportTraceServiceRequest::decode(&*post.body).unwrap().resource_spans {
            let resource = attributes(&of_resource.resource.unwrap().attributes);
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
                spans.push(Span {
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    kind: span.kind,
                    status: span.status.map_or(0, |status| status.code),
                    state: span.trace_state,
                    attributes: attributes(&span.attributes),
                    events: span.events.iter().map(|e| (e.name.clone(), attributes(&e.attributes))).collect(),
                    resource: resource.clone(),
                });
            }
        }
    }
    spans
}

/// The span of the request that was answered so.
fn of<'s>(spans: &'s [Span], answer: &Answer) -> &'s Span {
    let request = answer.header("x-request-id");
    let mut found = spans.iter().filter(|span| span.is("countersign.request_id") == request);
    let span = found.next().unwrap_or_else(|| panic!("no span of {request} in {spans:?}"));
    assert!(found.next().is_none(), "one span of each request");
    span
}

/// The spans under it.
fn under<'s>(spans: &'s [Span], parent: &Span) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.parent == parent.id && span.trace == parent.trace).collect()
}

fn traced(place: &Place, collector: &Receiver, more: &[&str]) -> Server {
    place.serve_with(&[&["--traces", &collector.url], more].concat(), &[])
}

fn look(server: &Server, headers: &[(&str, &str)]) -> Answer {
    send(Method::GET, &format!("{}/v1/keys", server.private), headers, "")
}

#[test]
fn handshake_continues_its_callers_trace() {
    let (place, collector) = (Place::new(), Receiver::answering(200));
    let server = traced(&place, &collector, &[]);
    let token = server.token();
    let url = server.handshake_url(&token);
    let id = server.look(&token)["id"].as_str().unwrap().to_owned();
    let parent = traceparent("01");
    let mut answers = Vec::new();
    for (method, url, status, outcome, told) in [
        (Method::GET, url.clone(), 405, "method", &*id),
        (Method::POST, url.clone(), 200, "accepted", &id),
        (Method::POST, url.clone(), 401, "replay", &id),
        (Method::POST, url.replace("/token/", "/tokens/").replace(&token, "cs1forged"), 404, "unknown", ""),
    ] {
        let headers = [("traceparent", &*parent), ("tracestate", "vendor=1")];
        let answer = send(method.clone(), &url, &headers, "");
        assert_eq!(answer.status, status, "{answer:?}");
        answers.push((answer, method, outcome, told));
    }
    let lost = send(Method::POST, &format!("{}/elsewhere/{token}", server.public), &[], "");
    server.stop();

    let spans = spans(&collector.all());
    for (answer, method, outcome, told) in &answers {
        let span = of(&spans, answer);
        assert_eq!((&*span.trace, &*span.parent, span.kind), (TRACE, PARENT, 2), "{span:?}");
        assert_eq!(span.state, "", "a stranger's state is not taken on");
        let route = span.is("http.route");
        assert!(["/token/{token}/{view}", "/tokens/{token}/{view}"].contains(&route), "{span:?}");
        assert_eq!(span.name, format!("{method} {route}"));
        assert_eq!(span.is("http.request.method"), method.as_str());
        assert_eq!(span.is("http.response.status_code"), answer.status.to_string());
        assert_eq!(span.is("countersign.outcome"), *outcome);
        assert_eq!(span.is("countersign.token.id"), *told);
        assert_eq!(span.is("countersign.listener"), "public");
        assert_eq!((span.is("url.scheme"), span.is("client.address")), ("http", "127.0.0.1"));
        assert_eq!(span.status, 0, "a refusal is no error of the server's");
        assert_eq!(span.resource["service.name"], "countersign");
        assert_eq!(span.resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert!(!span.resource["host.name"].is_empty());
    }
    let calls = |answer| {
        let children = under(&spans, of(&spans, answer));
        children
            .iter()
            .map(|span| (span.name.clone(), span.is("countersign.store.answer").to_owned()))
            .collect::<Vec<_>>()
    };
    let call = |name: &str, answer: &str| vec![(name.to_owned(), answer.to_owned())];
    assert_eq!(calls(&answers[0].0), []);
    assert_eq!(calls(&answers[1].0), call("store end", "recorded"));
    assert_eq!(calls(&answers[2].0), call("store end", "already"));
    assert_eq!(calls(&answers[3].0), [], "what is forged is refused without asking the store");
    let lost = of(&spans, &lost);
    assert_eq!((&*lost.name, lost.is("http.route")), ("POST", ""), "a path without a template is not told");
    assert!(lost.parent.is_empty() && lost.trace != TRACE, "{lost:?}");
}

#[test]
fn private_caller_decides_whether_it_is_traced() {
    let (place, collector) = (Place::new(), Receiver::answering(200));
    let server = traced(&place, &collector, &["--trace-ratio", "0"]);
    let call = |flags: &str| {
        let headers =
            [("content-type", "text/xml"), ("traceparent", &*traceparent(flags)), ("tracestate", "vendor=1")];
        http::post(&format!("{}/bugs", server.private), &headers, &http::document("newBugTrackerToken", &[]))
    };
    let (wanted, unwanted) = (call("01"), call("00"));
    let token = http::string(&wanted.text);
    look(&server, &[]);
    let stranger = [("traceparent", &*traceparent("01"))];
    assert_eq!(http::post(&server.handshake_url(&token), &stranger, "").status, 200);
    assert_eq!(unwanted.status, 200);
    let id = server.look(&token)["id"].as_str().unwrap().to_owned();
    server.stop();

    let spans = spans(&collector.all());
    assert_eq!(spans.len(), 1, "a stranger switches on nothing: {spans:?}");
    let span = of(&spans, &wanted);
    assert_eq!((&*span.name, span.is("rpc.method")), ("POST /bugs", "newBugTrackerToken"));
    assert_eq!((&*span.trace, &*span.parent, &*span.state), (TRACE, PARENT, "vendor=1"));
    assert_eq!(span.is("countersign.listener"), "private");
    let issued = BTreeMap::from([("countersign.token.id".to_owned(), id)]);
    assert_eq!(span.events, [("issued".to_owned(), issued)]);
}

#[test]
fn command_continues_the_trace_of_its_environment() {
    let (place, collector) = (Place::new(), Receiver::answering(200));
    let server = traced(&place, &collector, &["--trace-ratio", "0"]);
    for (parent, state) in
        [(traceparent("01"), "vendor=1"), (traceparent("00"), ""), ("broken".to_owned(), "")]
    {
        let variables = [("TRACEPARENT", &*parent), ("TRACESTATE", state)];
        place.run_with(&["token", "new", "--server", &server.private], &variables, "").printed();
    }
    server.print(&place, &["token", "new"]);
    server.stop();

    let spans = spans(&collector.all());
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!((&*spans[0].name, &*spans[0].trace, &*spans[0].parent), ("POST /v1/tokens", TRACE, PARENT));
    assert_eq!(spans[0].state, "vendor=1");
}

#[test]
fn wrong_secret_counts_as_unauthenticated() {
    let (place, collector) = (Place::new(), Receiver::answering(200));
    place.write("bearer", "s3cret-0f9e8d7c6b5a4321\n");
    let server = traced(&place, &collector, &["--trace-ratio", "0", "--private-bearer-file", "bearer"]);
    let parent = traceparent("01");
    let parent = ("traceparent", parent.as_str());
    let wrong = ("authorization", "Bearer wrong");
    let right = ("authorization", "Bearer s3cret-0f9e8d7c6b5a4321");
    let answers =
        [look(&server, &[parent]), look(&server, &[parent, wrong]), look(&server, &[parent, right])];
    assert_eq!(answers.each_ref().map(|answer| answer.status), [401, 401, 200]);
    server.stop();

    let spans = spans(&collector.all());
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(of(&spans, &answers[2]).trace, TRACE);
}

#[test]
fn only_private_callers_can_opt_out_of_traces() {
    let (place, collector) = (Place::new(), Receiver::answering(200));
    let server = traced(&place, &collector, &[]);
    let unwanted = traceparent("00");
    let unwanted = [("traceparent", unwanted.as_str())];
    let token = server.token();
    let (private, public) =
        (look(&server, &unwanted), http::post(&server.handshake_url(&token), &unwanted, ""));
    let broken = look(&server, &[("traceparent", "00-xyz-1-01")]);
    server.stop();

    let spans = spans(&collector.all());
    assert!(!spans.iter().any(|span| span.is("countersign.request_id") == private.header("x-request-id")));
    assert_eq!(of(&spans, &public).trace, TRACE);
    assert!(of(&spans, &broken).parent.is_empty(), "what cannot be read is left out");
}

#[test]
fn alarm_continues_the_trace() {
    let (place, collector, alarms) = (Place::new(), Receiver::answering(200), Receiver::answering(204));
    place.write("alarm-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let webhook = format!("{}/sEcretHook", alarms.url);
    let server =
        traced(&place, &collector, &["--alarm-webhook", &webhook, "--alarm-secret-file", "alarm-secret"]);
    let token = server.token();
    let headers = [("traceparent", &*traceparent("01"))];
    let answers = [0, 1].map(|_| http::post(&server.handshake_url(&token), &headers, ""));
    let alarm = alarms.next();
    server.process.err.with("used a second time");
    let mut posts = Vec::new();
    // The delivery ends only after the receiver has answered, and the server does not wait for it.
    while !spans(&posts).iter().any(|span| span.kind == 3) {
        posts.push(collector.next());
    }
    server.stop();
    posts.extend(collector.all());

    let spans = spans(&posts);
    let delivery = spans.iter().find(|span| span.kind == 3).unwrap();
    assert_eq!((&*delivery.name, delivery.is("server.address")), ("POST", "127.0.0.1"));
    assert_eq!(delivery.parent, of(&spans, &answers[1]).id);
    assert_eq!(alarm.header("traceparent"), format!("00-{TRACE}-{}-01", delivery.id));
}

#[test]
fn untraced_alarm_has_no_trace_headers() {
    let (place, alarms) = (Place::new(), Receiver::answering(204));
    place.write("alarm-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let server =
        place.serve_with(&["--alarm-webhook", &alarms.url, "--alarm-secret-file", "alarm-secret"], &[]);
    let token = server.token();
    for _ in 0..2 {
        http::post(&server.handshake_url(&token), &[("traceparent", &*traceparent("01"))], "");
    }
    assert_eq!(alarms.next().header("traceparent"), "");
}

#[test]
fn failing_collector_is_logged_once_and_delays_nothing() {
    let (place, collector) = (Place::new(), Receiver::answering(400));
    let server = traced(&place, &collector, &[]);
    for _ in 0..2 {
        assert_eq!(server.status(&server.token()), 200);
        collector.next();
    }
    let metrics = http::get(&format!("{}/metrics", server.private)).text;
    assert!(metrics.contains("countersign_spans_exported_total 0\n"), "{metrics}");
    let log = server.stop().err;
    assert_eq!(log.matches("the collector does not take spans").count(), 1, "{log}");
    assert!(log.contains("it answers 400 Bad Request"), "{log}");
}

#[test]
fn exported_spans_are_counted() {
    let (place, collector) = (Place::new(), Receiver::answering(200));
    let server = traced(&place, &collector, &[]);
    assert_eq!(server.status(&server.token()), 200);
    let mut posted = 0;
    while posted < 3 {
        posted += spans(&[collector.next()]).len();
    }
    wait_for_count(&server, "exported", posted);
}

/// Waits until so many spans are counted, at least. They are when the collector's answer has come.
fn wait_for_count(server: &Server, how: &str, count: usize) {
    let name = format!("countersign_spans_{how}_total ");
    let counted = || {
        let metrics = http::get(&format!("{}/metrics", server.private)).text;
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<usize>().ok()).unwrap()
    };
    until(&format!("{count} spans {how}"), || (counted() >= count).then_some(()));
}

#[test]
fn service_name_comes_from_the_variables() {
    let (place, collector) = (Place::new(), Receiver::answering(200));
    let variables = [
        ("OTEL_SERVICE_NAME", "login tokens"),
        ("OTEL_RESOURCE_ATTRIBUTES", "host.name=elsewhere,deployment.environment.name=trial"),
        // The sampling settings of other programs have no effect here.
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
    ];
    let server = place.serve_with(&["--traces", &collector.url], &variables);
    server.token();
    server.stop();
    let resource = spans(&collector.all()).remove(0).resource;
    for (name, value) in [
        ("service.name", "login tokens"),
        ("host.name", "elsewhere"),
        ("deployment.environment.name", "trial"),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(resource[name], value, "{resource:?}");
    }
}

#[test]
fn spans_are_posted_again_when_a_collector_is_busy() {
    let (busy, taken) = ((503, Vec::new()), (200, Vec::new()));
    let (place, collector) = (Place::new(), Receiver::answering_in_turn(vec![busy, taken]));
    let server = traced(&place, &collector, &[]);
    assert_eq!(server.status(&server.token()), 200);
    let (first, second) = (collector.next(), collector.next());
    assert_eq!(first.body, second.body, "the same again");
    server.process.err.with("spans are exported again");
    wait_for_count(&server, "exported", spans(&[second]).len());
    let metrics = http::get(&format!("{}/metrics", server.private)).text;
    assert!(metrics.contains("countersign_spans_lost_total 0\n"), "{metrics}");
}

#[test]
fn spans_refused_by_the_collector_count_as_lost() {
    let partial_success =
        Some(ExportTracePartialSuccess { rejected_spans: 1, error_message: "too long".to_owned() });
    let refusal = ExportTraceServiceResponse { partial_success }.encode_to_vec();
    let (place, collector) =
        (Place::new(), Receiver::answering_in_turn(vec![(200, refusal), (200, Vec::new())]));
    let server = traced(&place, &collector, &[]);
    assert_eq!(server.status(&server.token()), 200);
    wait_for_count(&server, "lost", 1);
    let log = server.stop().err;
    assert!(!log.contains("does not take spans") && !log.contains("too long"), "{log}");
}

#[test]
fn unreachable_collector_delays_neither_serving_nor_stopping() {
    let place = Place::new();
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let server = place.serve_with(&["--traces", &gone], &[]);
    assert_eq!(server.status(&server.token()), 200);
    server.process.err.with("the collector does not take spans");
    assert_eq!(server.status(&server.token()), 200);
    let log = server.stop().err;
    assert_eq!(log.matches("the collector does not take spans").count(), 1, "{log}");
    assert!(log.contains("Connection refused") && !log.contains("http://127.0.0.1:0"), "{log}");

    let silent = Receiver::silent();
    let server = traced(&place, &silent, &[]);
    assert_eq!(server.status(&server.token()), 200);
    silent.next();
    let log = server.stop().err;
    assert!(log.contains("the last spans were not exported in time"), "{log}");
}
