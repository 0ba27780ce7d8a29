//! Types that may stand in a function's signature: triggers going in, drafts of events coming out.

use std::time::Duration;

use bytes::Bytes;

use crate::{Contract, DecodeError, Event, Format, decode, oncue::v1::TimerFired};

/// Argument of a function: the event it acts on. Implemented for every [`Event`], for enums made by
/// [`events!`](crate::events!), and for `()`, which is cued by the function's schedule alone.
pub trait Trigger: Sized + Send + Sync + 'static {
    /// Event types to act on; all of one domain, since a function has one consumer on one stream.
    fn types() -> Vec<&'static str>;

    /// Contracts of these types, for `--contract`. Default: none.
    fn contracts() -> Vec<&'static Contract> {
        Vec::new()
    }

    /// Whether every function has a trigger of its own, told apart by the function's name as key (only `()`).
    const PER_FUNCTION: bool = false;

    /// Reads the payload of an event of type `ty`.
    ///
    /// # Errors
    /// The payload is not of this type, or lacks the key its contract names.
    fn decode(ty: &str, format: Format, payload: &[u8]) -> Result<Self, DecodeError>;

    /// Key of the event, by which the function works on one after another; empty for none.
    fn key(&self) -> &str;
}

/// A single event.
impl<E: Event> Trigger for E {
    fn types() -> Vec<&'static str> {
        vec![E::TYPE]
    }

    fn contracts() -> Vec<&'static Contract> {
        vec![E::contract()]
    }

    fn decode(ty: &str, format: Format, payload: &[u8]) -> Result<Self, DecodeError> {
        if ty != E::TYPE {
            return Err(DecodeError(format!("expected {}, got {ty}", E::TYPE)));
        }
        let event = decode::<E>(format, payload)?;
        // An empty key would put every such event in one row.
        if E::KEYED && event.key().is_empty() {
            return Err(DecodeError(format!("{} has an empty key field", E::SCHEMA)));
        }
        Ok(event)
    }

    fn key(&self) -> &str {
        Event::key(self)
    }
}

/// Cue of a function that its schedule alone starts.
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
    /// Event type, `web.page.milestone`.
    pub ty: &'static str,
    /// Key of the event, empty for none; it becomes the last token of the subject.
    pub key: String,
    /// Whether the contract names a key for the type: then an empty one is a mistake.
    pub keyed: bool,
    /// Protobuf: functions always write it, whatever they were sent.
    pub payload: Bytes,
    /// Time from the commit until the event is to happen; `None` for at once.
    pub delay: Option<Duration>,
}

/// Result of a function: the events that follow. Implemented for `()`, every [`Event`], `Option`, `Vec` and tuples of
/// up to four, for [`Delayed`], and for enums made by [`events!`](crate::events!).
pub trait Emit: Send {
    /// Every event type that could follow, for the manifest.
    fn types() -> Vec<&'static str>;

    /// Contracts of these types, for `--contract`. Default: none.
    fn contracts() -> Vec<&'static Contract> {
        Vec::new()
    }

    /// Types among them that may be [`Delayed`], for the manifest. Default: none.
    fn delayed() -> Vec<&'static str> {
        Vec::new()
    }

    /// Appends the events, encoded, in the order in which they are to be published.
    fn emit(self, out: &mut Vec<Draft>);
}

/// One event follows each time.
impl<E: Event> Emit for E {
    fn types() -> Vec<&'static str> {
        vec![E::TYPE]
    }

    fn contracts() -> Vec<&'static Contract> {
        vec![E::contract()]
    }

    fn emit(self, out: &mut Vec<Draft>) {
        let key = Event::key(&self).to_owned();
        out.push(Draft {
            ty: E::TYPE,
            key,
            keyed: E::KEYED,
            payload: self.encode_to_vec().into(),
            delay: None,
        });
    }
}

/// An event that is to happen later: kept by the bus as a message schedule until it is due.
///
/// ```
/// # use oncue_proto::{Delayed, Emit as _};
/// # use oncue_app_events::web::PageMilestone;
/// # use std::time::Duration;
/// let event = PageMilestone { page: "/home".into(), views: 10 };
/// let reminder = Delayed { event, after: Duration::from_hours(1) };
/// # let mut drafts = Vec::new();
/// # reminder.emit(&mut drafts);
/// # assert_eq!(drafts[0].delay, Some(Duration::from_hours(1)));
/// ```
#[derive(Clone, Debug)]
pub struct Delayed<E> {
    /// Result to be delayed: an event, or anything else that a function may return.
    pub event: E,
    /// Counted from the run of the function, not from the event: after an outage a chain of delays must not fire all
    /// at once. Delays in delays add up.
    pub after: Duration,
}

impl<E: Emit> Emit for Delayed<E> {
    fn types() -> Vec<&'static str> {
        E::types()
    }

    fn contracts() -> Vec<&'static Contract> {
        E::contracts()
    }

    fn delayed() -> Vec<&'static str> {
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

/// An event, or none this time.
impl<T: Emit> Emit for Option<T> {
    fn types() -> Vec<&'static str> {
        T::types()
    }

    fn contracts() -> Vec<&'static Contract> {
        T::contracts()
    }

    fn delayed() -> Vec<&'static str> {
        T::delayed()
    }

    fn emit(self, out: &mut Vec<Draft>) {
        if let Some(value) = self {
            value.emit(out);
        }
    }
}

/// Any number of events, all recorded and published with one commit.
impl<T: Emit> Emit for Vec<T> {
    fn types() -> Vec<&'static str> {
        T::types()
    }

    fn contracts() -> Vec<&'static Contract> {
        T::contracts()
    }

    fn delayed() -> Vec<&'static str> {
        T::delayed()
    }

    fn emit(self, out: &mut Vec<Draft>) {
        for value in self {
            value.emit(out);
        }
    }
}

/// Several results at once, published in the order in which they stand.
macro_rules! tuples {
    ($($($name:ident)*;)*) => {$(
        impl<$($name: Emit),*> Emit for ($($name,)*) {
            fn types() -> Vec<&'static str> {
                [$($name::types()),*].concat()
            }

            fn contracts() -> Vec<&'static Contract> {
                [$($name::contracts()),*].concat()
            }

            fn delayed() -> Vec<&'static str> {
                [$($name::delayed()),*].concat()
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

/// Nothing follows.
impl Emit for () {
    fn types() -> Vec<&'static str> {
        Vec::new()
    }

    fn emit(self, _: &mut Vec<Draft>) {}
}

/// One of several events, as argument or as result of a function. Makes an enum with `From` for each event, so that
/// `.into()` is all it takes; as an argument, all events must be of one domain.
///
/// ```
/// # use oncue_app_events::files::{FileAccepted, FileRejected};
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

            fn contracts() -> ::std::vec::Vec<&'static $crate::Contract> {
                ::std::vec![$(<$event as $crate::Event>::contract()),+]
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

            fn contracts() -> ::std::vec::Vec<&'static $crate::Contract> {
                <Self as $crate::Trigger>::contracts()
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
