//! A finding's fields as the arguments of its instant.

use super::proto::DebugAnnotation;
use crate::model::{Thread, Value};

/// A field with its value, named as in JSON.
pub(super) fn annotations((name, value): &(&'static str, Value)) -> Vec<DebugAnnotation> {
    let named = |suffix: &str| DebugAnnotation {
        name: Some(format!("{name}{suffix}")),
        ..DebugAnnotation::default()
    };
    match value {
        Value::Text(text) => vec![DebugAnnotation { string_value: Some(text.clone()), ..named("") }],
        Value::Number(number) => vec![DebugAnnotation { uint_value: Some(*number), ..named("") }],
        Value::Ns(ns) => vec![DebugAnnotation { uint_value: Some(*ns), ..named("_ns") }],
        Value::SignedNs(ns) => vec![DebugAnnotation { int_value: Some(*ns), ..named("_ns") }],
        Value::Thread(Thread { tid, comm }) => vec![
            DebugAnnotation { string_value: Some(comm.clone()), ..named("") },
            DebugAnnotation { uint_value: Some((*tid).into()), ..named("_tid") },
        ],
        Value::Unknown => Vec::new(),
    }
}
