//! The `OpenAPI` document: its front matter, and what holds for every operation. The rest comes from the handlers.

use std::sync::LazyLock;

use axum::Json;
use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, OpenApi, PathItem, Ref, RefOr, Required, Response, ResponseBuilder,
};

use super::body::MAX_BODY_BYTES;

/// The document, which is the same for as long as the program runs.
static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(crate::routes::document);

/// `GET /openapi.json`.
pub(crate) async fn show() -> Json<&'static OpenApi> {
    Json(&DOCUMENT)
}

/// The document without its paths.
pub(crate) fn front_matter() -> OpenApi {
    #[derive(utoipa::OpenApi)]
    #[openapi(info(
        title = "Countersign private API",
        description = "Issue, look up and revoke single-use login tokens, and look after their server. The same \
                       operations on tokens are offered as XML-RPC at /bugs."
    ))]
    struct Document;
    Document::openapi()
}

/// The refusals of every operation.
const OF_ALL: [&str; 4] = ["401", "403", "429", "503"];

/// The refusals of an operation that takes a body.
const OF_BODIES: [&str; 4] = ["400", "408", "413", "415"];

/// How a handler says of its body that it can be left out.
const MAY_BE_EMPTY: &str = "may be empty";

/// What a status means here.
const MEANINGS: &[(&str, &str)] = &[
    ("200", "It is done, or this is what was asked for."),
    ("201", "The new token."),
    ("400", "The request is not as described here; `detail` says what is wrong."),
    ("401", "No secret or JWT of a caller of the private API was shown."),
    (
        "403",
        "The caller may not do this; or a web page of another site asks, or the request is addressed to a name that could be one's.",
    ),
    ("404", "It is not a token of this server."),
    ("408", "The body did not arrive in time."),
    ("409", "The key ring does not allow the change."),
    ("410", "The token expired so long ago that its record is gone."),
    ("413", "The body is too long."),
    ("415", "The body is not said to be JSON, or is compressed and not by gzip or deflate."),
    (
        "429",
        "Too many wrong secrets came from this address, or the caller has had its tokens of this minute.",
    ),
    ("500", "Something broke off that should not; the server's log has more."),
    (
        "503",
        "The store cannot be used now, this server's clock is wrong, or the keys of a JWT's issuer cannot be fetched; \
         `Retry-After` says when to ask again.",
    ),
];

/// Adds to the handlers' descriptions what holds for all of them.
pub(crate) fn finish(mut document: OpenApi) -> OpenApi {
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        if let Some(RefOr::T(body)) = &mut operation.request_body
            && body.description.as_deref() == Some(MAY_BE_EMPTY)
        {
            body.required = Some(Required::False);
        }
        let of_bodies = OF_BODIES.into_iter().filter(|_| operation.request_body.is_some());
        for status in OF_ALL.into_iter().chain(of_bodies) {
            operation
                .responses
                .responses
                .entry(status.to_owned())
                .or_insert_with(|| Response::new("").into());
        }
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response {
                describe(status, response);
            }
        }
    }
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("Only where `callers_file` or `private_bearer_file` is set."))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let none = SecurityRequirement::default();
    document.security = Some(vec![none, SecurityRequirement::new::<_, [&str; 0], &str>("bearer", [])]);
    document
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut path.get, &mut path.post, &mut path.delete].into_iter().flatten()
}

fn describe(status: &str, response: &mut Response) {
    if response.description.is_empty()
        && let Some((_, meaning)) = MEANINGS.iter().find(|(known, _)| *known == status)
    {
        response.description = match status {
            "413" => format!("The body is longer than {MAX_BODY_BYTES} bytes."),
            _ => (*meaning).to_owned(),
        };
    }
    // Refusals are RFC 9457's.
    if !status.starts_with('2') {
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let description = std::mem::take(&mut response.description);
        *response = ResponseBuilder::new()
            .description(description)
            .content("application/problem+json", problem)
            .build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_response_is_described() {
        let mut document = crate::routes::document();
        let all = document.paths.paths.values_mut().flat_map(operations);
        let undescribed: Vec<_> = all
            .flat_map(|operation| {
                let id = operation.operation_id.clone().unwrap_or_default();
                let responses = operation.responses.responses.iter();
                responses
                    .filter(|(_, response)| !matches!(response, RefOr::T(Response { description, .. }) if !description.is_empty()))
                    .map(move |(status, _)| format!("{id} {status}"))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(undescribed, Vec::<String>::new());
    }
}
