//! Events of the demo app, made as any other repository makes its own: three lines of `build.rs`, one line here.
//!
//! Pages are seen ([`web`]), files are looked into, judged and removed ([`files`]). The upload itself is an event of
//! the platform, [`oncue_proto::files::FileUploaded`].

include!(concat!(env!("OUT_DIR"), "/events.rs"));
