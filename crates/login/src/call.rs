//! Writing an XML-RPC call.

use dxr::{MethodCall, Value};

/// The document of a call; `None` if it cannot be written. (The writer's own error would have the document in it.)
pub(crate) fn call_document(method: &str, params: Vec<Value>) -> Option<String> {
    let call = MethodCall { name: method.to_owned().into(), params };
    Some(format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>{}", call.to_xml().ok()?))
}
