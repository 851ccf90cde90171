//! A service to call, and a way to call it.

use std::task::{Context, Poll, Waker};

use countersign_xmlrpc::{
    Arguments, Fault, Method, Parameter, RpcResponse, Service, Type, Value, fault, respond, structure,
};

/// Answers like the token server does, with its parameters told back.
pub(crate) struct Tokens;

const METHODS: &[Method] = &[
    Method {
        name: "newBugTrackerToken",
        returns: Type::String,
        parameters: &[Parameter::optional("bugtracker_url", Type::String)],
        help: "Makes a token.",
    },
    Method {
        name: "getLoginToken",
        returns: Type::Struct,
        parameters: &[Parameter::required("token_id", Type::String)],
        help: "Looks at a token.",
    },
    Method {
        name: "mixed",
        returns: Type::Boolean,
        parameters: &[
            Parameter::required("count", Type::Int),
            Parameter::optional("when", Type::DateTime),
            Parameter::optional("note", Type::String),
        ],
        help: "",
    },
    Method { name: "large", returns: Type::String, parameters: &[], help: "" },
    Method { name: "broken", returns: Type::String, parameters: &[], help: "" },
];

impl Service for Tokens {
    fn methods(&self) -> &'static [Method] {
        METHODS
    }

    async fn call(&self, method: &'static str, arguments: Arguments) -> Result<Value, Fault> {
        match method {
            "newBugTrackerToken" => {
                let url: Option<String> = arguments.optional("bugtracker_url")?;
                Ok(Value::String(url.map_or("unbound".to_owned(), |url| format!("for {url}"))))
            }
            "getLoginToken" => {
                let token: String = arguments.required("token_id")?;
                if token == "known" {
                    Ok(structure([
                        ("token_id", Value::String(token)),
                        ("date_consumed", Value::Boolean(false)),
                    ]))
                } else {
                    Err(fault::application("This server never issued that token."))
                }
            }
            "mixed" => {
                let count: i32 = arguments.required("count")?;
                let note: Option<String> = arguments.optional("note")?;
                Ok(Value::Boolean(count == 1 && note.is_some()))
            }
            "large" => Ok(Value::String("x".repeat(300_000))),
            "broken" => arguments.required::<String>("undeclared").map(Value::String),
            other => Err(fault::no_such_method(other)),
        }
    }
}

/// Calls the service. Its answers wait for nothing.
pub(crate) fn call(content_type: Option<&str>, body: &[u8]) -> RpcResponse {
    block_on(respond(&Tokens, content_type, body))
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
