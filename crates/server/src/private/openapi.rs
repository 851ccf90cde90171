//! The front matter of the `OpenAPI` document; the rest is gathered from the handlers.

use utoipa::OpenApi;

/// The document without its paths.
pub(crate) fn front_matter() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(info(
        title = "Countersign private API",
        description = "Issue, look up and revoke single-use login tokens, and look after their server. The same \
                       operations on tokens are offered as XML-RPC at /bugs."
    ))]
    struct Document;
    Document::openapi()
}
