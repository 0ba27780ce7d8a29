//! What may stand in a function's signature: triggers going in, drafts of events coming out.

use std::time::Duration;

use bytes::Bytes;

use crate::{DecodeError, Event, Format, decode, oncue::v1::TimerFired};

/// What a function acts on. Implemented for every [`Event`], for enums made by [`events!`](crate::events!), and for
/// `()`, which is cued by the function's schedule alone.
pub trait Trigger: Sized + Send + Sync + 'static {
    /// The event types it acts on; all of one domain, since a function has one consumer on one stream.
    fn types() -> Vec<&'static str>;
    /// Whether every function has a trigger of its own, told apart by the function's name as key (only `()`).
    const PER_FUNCTION: bool = false;

    /// # Errors
    /// The payload is not of this type, or lacks the key its contract names.
    fn decode(ty: &str, format: Format, payload: &[u8]) -> Result<Self, DecodeError>;
    fn key(&self) -> &str;
}

impl<E: Event> Trigger for E {
    fn types() -> Vec<&'static str> {
        vec![E::TYPE]
    }

    fn decode(ty: &str, format: Format, payload: &[u8]) -> Result<Self, DecodeError> {
        if ty != E::TYPE {
            return Err(DecodeError(format!("expected {}, got {ty}", E::TYPE)));
        }
        let event = decode::<E>(format, payload)?;
        if E::KEYED && event.key().is_empty() {
            return Err(DecodeError(format!("{} has an empty key field", E::SCHEMA)));
        }
        Ok(event)
    }

    fn key(&self) -> &str {
        Event::key(self)
    }
}

impl Trigger for () {
    const PER_FUNCTION: bool = true;

    fn types() -> Vec<&'static str> {
        vec![TimerFired::TYPE]
    }

    fn decode(ty: &str, format: Format, payload: &[u8]) -> Result<Self, DecodeError> {
        <TimerFired as Trigger>::decode(ty, format, payload).map(|_| ())
    }

    fn key(&self) -> &'static str {
        ""
    }
}

/// An event a function wants to follow, encoded; it gets id, time and flow when its cause is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub ty: &'static str,
    pub key: String,
    pub payload: Bytes,
    pub delay: Option<Duration>,
}

/// What a function may return.
pub trait Emit: Send {
    /// Every event type it could emit, for the manifest.
    fn types() -> Vec<&'static str>;
    fn emit(self, out: &mut Vec<Draft>);
}

impl<E: Event> Emit for E {
    fn types() -> Vec<&'static str> {
        vec![E::TYPE]
    }

    fn emit(self, out: &mut Vec<Draft>) {
        let key = Event::key(&self).to_owned();
        out.push(Draft {
            ty: E::TYPE,
            key,
            payload: self.encode_to_vec().into(),
            delay: None,
        });
    }
}

/// An event that is to happen later: kept by the bus as a message schedule until it is due.
#[derive(Clone, Debug)]
pub struct Delayed<E> {
    pub event: E,
    pub after: Duration,
}

impl<E: Emit> Emit for Delayed<E> {
    fn types() -> Vec<&'static str> {
        E::types()
    }

    fn emit(self, out: &mut Vec<Draft>) {
        let from = out.len();
        self.event.emit(out);
        for draft in &mut out[from..] {
            draft.delay = Some(draft.delay.unwrap_or_default() + self.after);
        }
    }
}

impl<T: Emit> Emit for Option<T> {
    fn types() -> Vec<&'static str> {
        T::types()
    }

    fn emit(self, out: &mut Vec<Draft>) {
        if let Some(value) = self {
            value.emit(out);
        }
    }
}

impl<T: Emit> Emit for Vec<T> {
    fn types() -> Vec<&'static str> {
        T::types()
    }

    fn emit(self, out: &mut Vec<Draft>) {
        for value in self {
            value.emit(out);
        }
    }
}

macro_rules! tuples {
    ($($($name:ident)*;)*) => {$(
        impl<$($name: Emit),*> Emit for ($($name,)*) {
            fn types() -> Vec<&'static str> {
                [$($name::types()),*].concat()
            }

            #[allow(non_snake_case)]
            fn emit(self, out: &mut Vec<Draft>) {
                let ($($name,)*) = self;
                $($name.emit(out);)*
            }
        }
    )*};
}
tuples! { A; A B; A B C; A B C D; }

impl Emit for () {
    fn types() -> Vec<&'static str> {
        Vec::new()
    }

    fn emit(self, _: &mut Vec<Draft>) {}
}

/// One of several events, as argument or as result of a function:
///
/// ```
/// # use oncue_proto::files::{FileAccepted, FileRejected};
/// oncue_proto::events! {
///     pub enum Verdict { Accepted(FileAccepted), Rejected(FileRejected) }
/// }
/// ```
#[macro_export]
macro_rules! events {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($variant:ident($event:ty)),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis enum $name { $($variant($event)),+ }

        impl $crate::Trigger for $name {
            fn types() -> ::std::vec::Vec<&'static str> {
                ::std::vec![$(<$event as $crate::Event>::TYPE),+]
            }

            fn decode(
                ty: &str,
                format: $crate::Format,
                payload: &[u8],
            ) -> ::std::result::Result<Self, $crate::DecodeError> {
                match ty {
                    $(<$event as $crate::Event>::TYPE => {
                        <$event as $crate::Trigger>::decode(ty, format, payload).map(Self::$variant)
                    })+
                    other => Err($crate::DecodeError(::std::format!("{other} is none of {:?}", <Self as $crate::Trigger>::types()))),
                }
            }

            fn key(&self) -> &str {
                match self { $(Self::$variant(event) => $crate::Event::key(event)),+ }
            }
        }

        impl $crate::Emit for $name {
            fn types() -> ::std::vec::Vec<&'static str> {
                <Self as $crate::Trigger>::types()
            }

            fn emit(self, out: &mut ::std::vec::Vec<$crate::Draft>) {
                match self { $(Self::$variant(event) => $crate::Emit::emit(event, out)),+ }
            }
        }

        $(impl ::std::convert::From<$event> for $name {
            fn from(event: $event) -> Self { Self::$variant(event) }
        })+
    };
}
