//! Everything an operator of Oncue reads and does, as one model. The command line and the console are views of it:
//! both show the same answer to the same question, because it is computed here and nowhere else.
//!
//! An operator can
//!
//! * see how every function fares: [`functions`], from the durable [`consumers`] on the bus and from what the workers
//!   and every `oncue up` answer themselves ([`services`]);
//! * see who acts on what and who emits what, as declared: [`topology`]; and where what happens differs: [`drift`];
//! * look up any event, and rebuild the flow it belongs to from what is left of it: [`flows`];
//! * read dead letters by cause, try them, give them back to their function, or give them up: [`dead_letters`];
//! * see what the app's [schedules](flows::schedules) fire and have fired, fire one now, pause and resume it;
//! * look into [streams](stores::streams), and into [rows](stores::rows) of tables, and change fields of one;
//! * have every event of a function accounted for: [`audit`];
//! * compare a new program of a function with what is there: [`changes`]; and set aside what [waits](changes::waiting) for one
//!   that will not act on it: [`changes::set_aside`];
//! * ask a function's own [`program`], which alone knows its key and its handler.
//!
//! * take a [backup](stores::backup) of both servers, and put it back;
//! * [tend](stores::upkeep) what the app has on the servers;
//! * give everybody the [rights](stores::rights) that follow from what the functions declare.
//!
//! # Where answers come from
//!
//! | question | source | cost | not known from it |
//! |---|---|---|---|
//! | [what waits for a function](consumers) | `STREAM.LIST`, `CONSUMER.LIST` | one request for 256 streams, one for each stream | whether anybody runs the function |
//! | [what workers count](services) | `$SRV.STATS` | one question, and a pause in which no answer comes | what workers counted that have ended |
//! | [what is declared](topology) | Redis hash `oncue:functions`, programs with `--manifest`, `$SRV.INFO` | one round trip, a process for each program, one question | clients that publish |
//! | [which way events went](drift) | Redis hashes `oncue:edges`, `oncue:edges:at` | one round trip | the last seconds, which workers still collect |
//! | [an event, a flow](flows) | streams, seen-marks in Redis, the stream `dlq` | from one request to a whole stream | events that a stream has let go |
//! | [what failed](dead_letters) | the stream `dlq` | one request for 256 letters | letters that are out of the stream |
//! | [whether all was done](audit) | the function's own program | a whole stream and a mark for each event | events older than their marks |
//!
//! Every answer is of a moment, and of several moments where it has several sources: a worker that was asked first
//! has gone on when the consumer answers. Nothing is locked meanwhile.
//!
//! # What is written
//!
//! [`dead_letters`] writes an event or a record, and then deletes the letter; [`changes::set_aside`] a letter and its mark;
//! [`stores::upkeep`] purges, and keeps on record how far streams and functions are; [`stores::rows`] fields of a row that is still as
//! it was shown, and a record of it; [`flows::schedules`] an event, or a pause in the place of a schedule. All the rest reads.
//! Programs that are asked run as processes of their own on this machine, with the rights of whoever asks.
//!
//! Nothing here is linked into a function, and nothing here prints: results are values, errors are [`AdminError`]
//! and [`program::ProgramError`].

pub mod functions;
pub mod consumers;
pub mod services;
pub mod topology;
pub mod drift;
pub mod flows;
pub mod dead_letters;
pub mod audit;
pub mod program;
pub mod changes;
pub mod stores;

mod error;

pub use error::AdminError;
