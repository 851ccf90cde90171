//! Checks of the trace collector.

use super::context::Context;
use super::finding::Finding;

/// Whether the collector accepts spans, if one is configured.
pub(super) async fn collector(context: &Context) -> Vec<Finding> {
    if let Some(report) = context.report() {
        let traces = report.traces.as_ref();
        return traces.map(|traces| judge(&traces.host, traces.trouble.as_deref())).into_iter().collect();
    }
    let Ok(settings) = &context.settings else { return Vec::new() };
    let Some((collector, _)) = &settings.traces else { return Vec::new() };
    if context.server.is_none() {
        return vec![Finding::note(
            "the collector was not asked, because of --offline",
            "run this without --offline",
        )];
    }
    vec![judge(collector.host(), collector.probe().await.err().as_deref())]
}

fn judge(host: &str, trouble: Option<&str>) -> Finding {
    match trouble {
        None => Finding::ok(format!("the collector at {host} takes spans")),
        Some(reason) => Finding::warning(
            format!("the collector at {host} does not take spans ({reason}), so they are lost"),
            "see that it runs, and that traces is its base URL for OTLP over HTTP: mostly port 4318, where 4317 is for gRPC",
        ),
    }
}
