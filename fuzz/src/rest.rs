//! REST requests on their way to being messages.

use std::sync::LazyLock;

use http::Method;
use mockforge::{
    control::pb,
    gateway::{
        binding::{Binding, BodyField, Found, find},
        json,
    },
};
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

use super::{Source, split};

static BINDINGS: LazyLock<Vec<Binding>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("the contract");
    Binding::all(&pool).expect("every rpc has its twin")
});

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let method = source.pick(&[&Method::GET, &Method::POST, &Method::PUT, &Method::DELETE, &Method::PATCH]);
    let which = usize::from(source.byte());
    let (path, rest) = split(source.rest());
    let (query, body) = split(rest);
    let (Ok(path), Ok(body)) = (std::str::from_utf8(path), std::str::from_utf8(body)) else { return };
    let found = find(&BINDINGS, method, path);
    let (binding, captures) = match found {
        Found::Binding(binding, captures) => (binding, captures),
        // Paths are hard to guess.
        Found::OtherMethods(_) | Found::Nothing => (&BINDINGS[which % BINDINGS.len()], Vec::new()),
    };
    let mut message = DynamicMessage::new(binding.rpc.input());
    for (name, value) in &captures {
        let _ = json::read_parameter(&mut message, name, value);
    }
    for (name, value) in form_urlencoded::parse(query) {
        let _ = json::read_parameter(&mut message, &name, &value);
    }
    let read = match &binding.body {
        BodyField::Absent | BodyField::Whole => json::read(&mut message, body, ""),
        BodyField::Field(field) => match message.get_field_mut(field) {
            Value::Message(inner) => json::read(inner, body, field.name()),
            _ => Ok(()),
        },
    };
    if read.is_err() {
        return;
    }
    let text = json::write(&message);
    let mut again = DynamicMessage::new(binding.rpc.input());
    if let Err(error) = json::read(&mut again, &text, "") {
        panic!("{text} was written and cannot be read: {error}");
    }
    assert_eq!(json::write(&again), text);
}
