//! An app in process: its functions act on each other's events, in the order in which things go by themselves or in
//! whatever order luck has it.

mod untyped;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use futures_util::task::AtomicWaker;
use oncue_core::bus::Outbound;
use oncue_core::bus::pull::Delivery;
use oncue_core::store::StateValue;
use oncue_proto::event::MAX_HOPS;
use oncue_proto::oncue::v1::DeadLetter;
use oncue_proto::{Catalog, Contract, Event, Format, Trigger};
use pbjson_types::Timestamp;
use serde_json::{Value, json};

use super::choices::{Choices, Likely};
use super::ending::Ending;
use super::job::{Bell, Job};
use super::streams::header;
use super::world::{Consumer, Hand, Member, Waiting, World, label};
use crate::function::{Erased, Function};
use crate::state::{self, State};
use crate::worker::invocation::{BoxedInvocation, DeadLetterReason, Settlement};
use crate::worker::key_queues::KeyQueues;

/// Steps after which an app that does not come to rest never will.
const MAX_STEPS: usize = 1_000_000;
/// Crashes, second deliveries and second copies that luck may bring into one run, each.
const MAX_FAULTS: usize = 4;
/// Deliveries of one event that luck may spoil: an event must not die of luck alone.
const MAX_SPOILED: u32 = 2;

/// An app in process: functions over a store in memory, with a time of its own that begins with the year 2026 and passes in
/// [`advance`](Self::advance) alone. Needs a tokio runtime with time, such as `#[tokio::test]`.
///
/// ```
/// # use oncue::{Context, Function, Result, State};
/// # use oncue_app_events::web::{PageMilestone, PageViewed};
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// # struct Page { views: u64 }
/// # impl State for Page { const TABLE: &'static str = "pages"; }
/// # async fn count(view: PageViewed, page: &mut Page, _: &Context) -> Result<Option<PageMilestone>> {
/// #     page.views += 1;
/// #     Ok((page.views % 2 == 0).then(|| PageMilestone { page: view.page, views: page.views }))
/// # }
/// # fn count_views() -> Function<PageViewed> { Function::new("count-views", count) }
/// use oncue::testing::App;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// let mut app = App::new().with(count_views());
/// for visitor in ["v1", "v2"] {
///     app.publish(&PageViewed { page: "/home".into(), visitor: visitor.into(), ..Default::default() });
/// }
/// app.settle().await;
/// assert_eq!(app.row::<Page>("/home").unwrap().views, 2);
/// assert_eq!(app.events::<PageMilestone>().len(), 1);
/// assert!(app.dead_letters().is_empty());
/// # });
/// ```
pub struct App {
    world: Arc<World>,
    members: Arc<[Arc<Member>]>,
    /// Queues of each function's workers.
    queues: Vec<Vec<KeyQueues>>,
    /// Contracts of all events, to show payloads.
    contracts: Vec<&'static Contract>,
    /// Keys that a worker is at, the oldest first.
    tasks: Vec<Task>,
    /// Rung by jobs that can go on.
    driver: Arc<AtomicWaker>,
    /// Workers of each function.
    workers: usize,
    /// Whether luck may bring crashes and second deliveries.
    has_faults: bool,
    published: usize,
    schedules: usize,
    observed: BTreeMap<String, String>,
    /// Whether a job that waits for its handler holds up all others: what it waits for is outside, and comes when it likes.
    is_patient: bool,
}

/// One key with events in a worker, and the job that has some of them.
struct Task {
    function: usize,
    worker: usize,
    key: Arc<str>,
    /// None before the first step.
    running: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    bell: Arc<Bell>,
}

/// Next thing to happen.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// A job makes a step.
    Step { task: usize },
    /// A worker takes an event.
    Take {
        function: usize,
        worker: usize,
        from: From,
    },
    /// A worker dies.
    Crash { function: usize, worker: usize },
    /// The server takes a delivery for lost.
    Lose { function: usize, number: u64 },
    /// A message is published a second time.
    Copy { place: usize },
    /// Jobs wait for something outside.
    Wait,
}

/// Delivery that a worker has just been given.
struct Taken {
    number: u64,
    waiting: Waiting,
    delivery: Delivery,
}

/// Where a worker takes an event from.
#[derive(Debug, Clone, Copy)]
enum From {
    Fresh,
    Again(usize),
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl App {
    /// An app without functions, in which everything goes by itself: one worker for each function, and no luck.
    pub fn new() -> Self {
        Self::of(Arc::new(World::new(Choices::given(Vec::new()))), 1, false)
    }

    /// An app in this world, which has its luck.
    pub(super) fn of(world: Arc<World>, workers: usize, has_faults: bool) -> Self {
        Self {
            world,
            members: Arc::default(),
            queues: Vec::new(),
            contracts: Vec::new(),
            tasks: Vec::new(),
            driver: Arc::default(),
            workers,
            has_faults,
            published: 0,
            schedules: 0,
            observed: BTreeMap::new(),
            is_patient: false,
        }
    }

    /// Adds a function.
    ///
    /// # Panics
    /// Its signature asks for the impossible, or there is one of its name.
    #[must_use]
    pub fn with<E: Trigger>(mut self, function: Function<E>) -> Self {
        self.add(function.erased)
            .unwrap_or_else(|why| panic!("{why}"));
        self
    }

    /// Adds a function whose types are erased.
    fn add(&mut self, function: Erased) -> Result<(), String> {
        let name = function.name;
        if self.members.iter().any(|other| other.name() == name) {
            return Err(format!("there are two functions {name}"));
        }
        self.contracts.extend(function.contracts());
        let member = Member::new(function)?;
        let largest_run = member.effects.largest_run();
        self.members = self
            .members
            .iter()
            .cloned()
            .chain([Arc::new(member)])
            .collect();
        let workers = 0..self.workers;
        self.queues
            .push(workers.map(|_| KeyQueues::new(largest_run)).collect());
        self.world.lock().consumers.push(Consumer::default());
        Ok(())
    }

    /// Fires an event again and again, first when the interval has passed: a `[[schedule]]` of `oncue.toml`. For a function
    /// that takes no event it is `oncue_proto::oncue::v1::TimerFired` with the function's name.
    ///
    /// # Panics
    /// The interval is not a number of seconds.
    #[must_use]
    pub fn every<E: Event>(mut self, interval: Duration, event: &E) -> Self {
        let whole = interval.as_secs() > 0 && interval.subsec_nanos() == 0;
        assert!(whole, "an interval is whole seconds, at least one");
        self.every_encoded(interval, E::TYPE, event.key(), event.encode_to_vec().into());
        self
    }

    /// Publishes an event, as a client would, and returns its id. Nothing acts on it before [`settle`](Self::settle).
    pub fn publish<E: Event>(&mut self, event: &E) -> String {
        self.publish_encoded(E::TYPE, event.key(), event.encode_to_vec().into())
    }

    /// Goes on until nothing is left to do at this time: every event is handled or set aside, and so is what followed.
    ///
    /// # Panics
    /// The app does not come to rest.
    pub async fn settle(&mut self) {
        for _ in 0..MAX_STEPS {
            let ways = self.ways();
            let Some(plain) = ways.first() else {
                if self.relay() {
                    continue;
                }
                return;
            };
            let others: Vec<Likely> = ways[1..].iter().map(|act| act.likely()).collect();
            let chosen = self.world.lock().choices.choose(&others);
            let act = ways.get(chosen).unwrap_or(plain);
            if let Some(journal) = &mut self.world.lock().journal {
                journal.by_luck = chosen > 0;
            }
            self.act(*act).await;
        }
        panic!("after {MAX_STEPS} steps the app does not come to rest");
    }

    /// Lets time pass: schedules and delayed events happen at their times, one after the other, and all that follows.
    pub async fn advance(&mut self, by: Duration) {
        let until = self.world.now() + by.as_millis() as u64;
        self.settle().await;
        loop {
            let due = self.world.lock().streams.next_due();
            let Some(due) = due.filter(|due| *due <= until) else {
                break;
            };
            self.world.set_now(due.max(self.world.now()));
            let fired = self.world.lock().streams.due(due);
            for message in fired {
                let subject = message.subject.clone();
                self.world
                    .note(|| format!("the time has come of {subject}"));
                self.world.publish(message, &self.members);
            }
            self.settle().await;
        }
        self.world.set_now(until);
    }

    /// Time in the app.
    pub fn time(&self) -> Timestamp {
        oncue_core::model::letter::timestamp(self.world.now())
    }

    /// Row of a key; `None` where none was written.
    ///
    /// # Panics
    /// The row cannot be read as this struct.
    pub fn row<S: State>(&self, key: &str) -> Option<S> {
        let StateValue::Row(row) = self.world.store.show(S::TABLE, key)? else {
            return None;
        };
        let mut open =
            state::open::<S>(&row.fields).unwrap_or_else(|e| panic!("{}/{key}: {e}", S::TABLE));
        open.as_any().downcast_mut::<S>().cloned()
    }

    /// Value under a key of a table, in the form in which the gateway shows it: the fields of a row, `members` of a set, a
    /// `ranking`, or a `count`. `null` for none.
    pub fn state(&self, table: &str, key: &str) -> Value {
        match self.world.store.show(table, key) {
            Some(value) => value_json(value),
            None => Value::Null,
        }
    }

    /// Events of one type, the oldest first, those that were published and those that followed.
    ///
    /// # Panics
    /// One of them cannot be decoded.
    pub fn events<E: Event>(&self) -> Vec<E> {
        let mut events = Vec::new();
        for message in self.messages() {
            if header(&message, "ce-type") == Some(E::TYPE) {
                let event = oncue_proto::decode(Format::Protobuf, &message.payload);
                events.push(event.unwrap_or_else(|e| panic!("{}: {}", E::TYPE, e.0)));
            }
        }
        events
    }

    /// Dead letters, by function and event.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.world.lock().letters.values().cloned().collect()
    }

    /// Stores a file, as an upload does.
    pub fn put_file(&mut self, name: &str, content: impl Into<Bytes>) {
        self.world.files.put(name, &[], content.into());
    }

    /// Content of a file.
    pub fn file(&self, name: &str) -> Option<Bytes> {
        self.world.files.get(name).map(|(_, content)| content)
    }

    /// Notes something that the app has done outside of its rows and events, such as the mails that a double of the mail
    /// server has been given: [`Luck`](super::Luck) compares it as well.
    pub fn observe(&mut self, name: &str, value: &impl Debug) {
        self.observed.insert(name.to_owned(), format!("{value:?}"));
    }

    /// Messages of all streams, a message that was published twice once.
    fn messages(&self) -> Vec<Outbound> {
        let inner = self.world.lock();
        let mut seen = std::collections::HashSet::new();
        let log = inner.streams.log().iter();
        let fresh = log.filter(|stored| match header(&stored.message, "ce-id") {
            Some(id) => seen.insert(id.to_owned()),
            None => true,
        });
        fresh.map(|stored| stored.message.clone()).collect()
    }

    /// Whether luck has to leave all functions alone, since they run at most once.
    pub(super) fn is_spared(&self) -> bool {
        let mut members = self.members.iter();
        members.all(|member| member.effects.function.at_most_once)
    }

    /// Types of all events, to show payloads.
    pub(super) fn catalog(&self) -> Catalog {
        let contracts = oncue_proto::merge(self.contracts.iter().copied());
        let catalog = Catalog::builtin().with(&contracts);
        catalog.unwrap_or_else(|_| Catalog::builtin())
    }

    /// All that can be seen of the app from outside.
    pub(super) fn ending(&self, catalog: &Catalog) -> Ending {
        let mut ending = Ending::default();
        let places = self.world.lock().places.clone();
        for (table, key) in places {
            let value = self.state(&table, &key);
            ending.set(format!("row {table}/{key}"), value);
        }
        for message in self.messages() {
            let ty = header(&message, "ce-type").unwrap_or_default();
            let shown = catalog.get(ty).ok().and_then(|entry| {
                let json = entry.to_json(Format::Protobuf, &message.payload);
                json.ok()
            });
            let payload =
                shown.map_or_else(|| format!("{:?}", message.payload), |json| json.to_string());
            let source = header(&message, "ce-source").unwrap_or_default();
            ending.count(format!("event {ty} of {source} {payload}"));
        }
        for letter in self.world.lock().letters.values() {
            let DeadLetter {
                function,
                reason,
                event_type,
                key,
                ..
            } = letter;
            ending.count(format!(
                "dead letter of {function}, {reason}: {event_type} {key}"
            ));
        }
        for (name, digest) in self.world.files.digests() {
            ending.set(format!("file {name}"), digest);
        }
        for (name, seen) in &self.observed {
            ending.set(format!("observed {name}"), seen);
        }
        ending
    }
}

/// A value as the gateway shows it.
fn value_json(value: StateValue) -> Value {
    match value {
        StateValue::Row(row) => {
            let fields = row.fields.iter().map(|(name, value)| {
                let text = String::from_utf8_lossy(value);
                let is_bare = text.starts_with(|c: char| "{[tf-0123456789".contains(c));
                let value = is_bare.then(|| serde_json::from_str(&text).ok()).flatten();
                let value = value.unwrap_or_else(|| json!(text));
                (name.clone(), value)
            });
            Value::Object(fields.collect())
        }
        StateValue::Members(mut members) => {
            members.sort_unstable();
            json!({ "members": members })
        }
        StateValue::Ranking(ranking) => {
            let ranked = ranking
                .into_iter()
                .map(|(member, score)| json!({ "member": member, "score": score as i64 }));
            json!({ "ranking": ranked.collect::<Vec<_>>() })
        }
        StateValue::Count(count) => json!({ "count": count }),
    }
}

impl Act {
    fn likely(self) -> Likely {
        match self {
            Self::Step { .. } | Self::Take { .. } | Self::Wait => Likely::Often,
            Self::Crash { .. } | Self::Lose { .. } | Self::Copy { .. } => Likely::Seldom,
        }
    }
}

/// Driving: one way of those that are open is taken after the other.
impl App {
    /// Ways that are open, the plain one first; none where the app is at rest.
    fn ways(&self) -> Vec<Act> {
        let mut ways = Vec::new();
        for (task, at) in self.tasks.iter().enumerate() {
            if at.running.is_none() || at.bell.has_rung() {
                ways.push(Act::Step { task });
            }
        }
        if ways.is_empty() && !self.tasks.is_empty() {
            ways.push(Act::Wait);
        }
        self.takes(&mut ways);
        if self.has_faults && !ways.is_empty() {
            self.faults(&mut ways);
        }
        ways
    }

    /// Events that some worker may take. By themselves they are taken in the order in which they came, those that come
    /// again behind all others.
    fn takes(&self, ways: &mut Vec<Act>) {
        let inner = self.world.lock();
        let mut takes = Vec::new();
        for (function, consumer) in inner.consumers.iter().enumerate() {
            if let Some(place) = consumer.fresh.front() {
                takes.push(((0, *place), function, From::Fresh));
            }
            for (n, waiting) in consumer.again.iter().enumerate() {
                let behind = waiting.attempt as usize;
                takes.push(((behind, waiting.place), function, From::Again(n)));
            }
        }
        takes.sort_by_key(|(order, function, _)| (*order, *function));
        for (_, function, from) in takes {
            for worker in 0..self.workers {
                ways.push(Act::Take {
                    function,
                    worker,
                    from,
                });
            }
        }
    }

    /// Faults that may come now. None of them costs an event more than the system promises: one that may run once only is
    /// left alone, and so is one whose attempts would be used up.
    fn faults(&self, ways: &mut Vec<Act>) {
        let inner = self.world.lock();
        for (function, consumer) in inner.consumers.iter().enumerate() {
            let effects = &self.members[function].effects;
            if effects.function.at_most_once {
                continue;
            }
            let spoiled = MAX_SPOILED.min(effects.limits.attempts.saturating_sub(1));
            for worker in 0..self.workers {
                let mut hands = consumer.in_hand.values();
                let is_at_work = hands.clone().any(|hand| hand.worker == worker);
                let spares = hands.all(|hand| {
                    let may = hand.attempt <= spoiled && inner.may_spoil(hand.place, spoiled);
                    hand.worker != worker || may
                });
                if inner.tally.crashes < MAX_FAULTS && is_at_work && spares {
                    ways.push(Act::Crash { function, worker });
                }
            }
            for (number, hand) in &consumer.in_hand {
                let may = hand.attempt <= spoiled && inner.may_spoil(hand.place, spoiled);
                if inner.tally.redeliveries < MAX_FAULTS && may {
                    let number = *number;
                    ways.push(Act::Lose { function, number });
                }
            }
        }
        let mut members = self.members.iter();
        let is_once = members.any(|member| member.effects.function.at_most_once);
        if inner.tally.copies < MAX_FAULTS && !is_once {
            // What a schedule of oncue.toml fires has no id, and is nobody's to send again.
            let members = self.members.iter();
            let attempts = members.map(|member| member.effects.limits.attempts.saturating_sub(1));
            let most = attempts.min().unwrap_or_default().min(MAX_SPOILED);
            let log = inner.streams.log().iter().enumerate().rev().take(2);
            let known = log.filter(|(place, stored)| {
                header(&stored.message, "ce-id").is_some() && inner.may_spoil(*place, most)
            });
            ways.extend(known.map(|(place, _)| Act::Copy { place }));
        }
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Step { task } => self.step(task).await,
            Act::Take {
                function,
                worker,
                from,
            } => self.take(function, worker, from).await,
            Act::Crash { function, worker } => self.crash(function, worker),
            Act::Lose { function, number } => self.lose(function, number),
            Act::Copy { place } => {
                let mut inner = self.world.lock();
                inner.tally.copies += 1;
                inner.spoil(place);
                let now = inner.now;
                let copy = inner.streams.publish_again(place, now);
                inner.hand_on(copy, &self.members);
                let subject = inner.streams.log()[copy].message.subject.clone();
                drop(inner);
                self.world
                    .note(|| format!("{subject} is published a second time, under its id"));
            }
            Act::Wait => self.wait().await,
        }
    }

    /// One step of a job.
    async fn step(&mut self, number: usize) {
        if number > 0 {
            self.world.lock().tally.switches += 1;
        }
        if self.tasks[number].running.is_none() {
            self.begin(number);
        }
        let task = &mut self.tasks[number];
        let bell = task.bell.clone();
        let waker = Waker::from(bell.clone());
        let driver = self.driver.clone();
        let polled = loop {
            bell.reset();
            let job = task.running.as_mut();
            let polled = job.map(|job| job.as_mut().poll(&mut Context::from_waker(&waker)));
            let waits = matches!(polled, Some(Poll::Pending)) && !bell.has_rung();
            if !waits || !self.is_patient {
                break polled;
            }
            heard(&driver, &bell).await;
        };
        match polled {
            Some(Poll::Pending) if !bell.has_rung() => {
                // The handler waits: whoever it waits for has its turn.
                tokio::task::yield_now().await;
            }
            Some(Poll::Pending) => {}
            Some(Poll::Ready(())) | None => self.begin(number),
        }
    }

    /// The next job of a key, with the events that the worker's own queue hands out together; without any the key is done.
    fn begin(&mut self, number: usize) {
        let task = &mut self.tasks[number];
        let queue = &self.queues[task.function][task.worker];
        let Some(events) = queue.next_run(&task.key) else {
            self.tasks.remove(number);
            return;
        };
        let job = Job {
            world: self.world.clone(),
            members: self.members.clone(),
            function: task.function,
            worker: task.worker,
        };
        task.running = Some(Box::pin(job.process(task.key.clone(), events)));
        task.bell.ring();
    }

    /// Waits until a job can go on.
    async fn wait(&self) {
        poll_fn(|context| {
            self.driver.register(context.waker());
            if self.tasks.iter().any(|task| task.bell.has_rung()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// A worker takes an event: into the queue of its key, or to its end where no handler may have it.
    async fn take(&mut self, function: usize, worker: usize, from: From) {
        let member = self.members[function].clone();
        let Some(taken) = self.hand_out(function, worker, from) else {
            return;
        };
        let Taken {
            number,
            waiting,
            delivery,
        } = taken;
        let (mut event, unreadable) = member.intake.invocation(number, delivery);
        let refused = if let Some(why) = unreadable {
            let reason = DeadLetterReason::Unreadable(why.reason);
            Err(Settlement::dead_letter(reason, why.message))
        } else if event.meta.hops >= MAX_HOPS {
            let far = format!("{MAX_HOPS} functions since its root event");
            Err(Settlement::dead_letter(DeadLetterReason::Loop, far))
        } else {
            event.on_probation = waiting.attempt > 1 && !waiting.is_vouched;
            member.effects.decode(&mut event)
        };
        self.world.note(|| {
            let name = member.name();
            let taken = label(&event.meta.ty, event.key(), &event.meta.id);
            let again = if waiting.attempt > 1 { " again" } else { "" };
            format!("{name}, worker {}: takes {taken}{again}", worker + 1)
        });
        match refused {
            Ok(()) => self.enqueue(function, worker, event),
            Err(settlement) => {
                let job = Job {
                    world: self.world.clone(),
                    members: self.members.clone(),
                    function,
                    worker,
                };
                job.refuse(event, settlement).await;
            }
        }
    }

    /// Delivery of an event to a worker, which has it in hand then.
    fn hand_out(&self, function: usize, worker: usize, from: From) -> Option<Taken> {
        let mut inner = self.world.lock();
        let consumer = &mut inner.consumers[function];
        let waiting = match from {
            From::Fresh => Waiting::first(consumer.fresh.pop_front()?),
            From::Again(n) => consumer.again.remove(n),
        };
        inner.deliveries += 1;
        let number = inner.deliveries;
        let hand = Hand {
            place: waiting.place,
            attempt: waiting.attempt,
            worker,
        };
        inner.consumers[function].in_hand.insert(number, hand);
        Some(Taken {
            number,
            waiting,
            delivery: inner.deliver(waiting),
        })
    }

    fn enqueue(&mut self, function: usize, worker: usize, event: BoxedInvocation) {
        if let Some(key) = self.queues[function][worker].push(event) {
            self.tasks.push(Task {
                function,
                worker,
                key,
                running: None,
                bell: Bell::new(&self.driver),
            });
        }
    }

    /// A worker dies with all that it has in memory; what it had in hand is delivered again.
    fn crash(&mut self, function: usize, worker: usize) {
        self.world.lock().tally.crashes += 1;
        let name = self.members[function].name();
        self.world
            .note(|| format!("{name}, worker {}: crashes", worker + 1));
        self.tasks
            .retain(|task| task.function != function || task.worker != worker);
        let largest_run = self.members[function].effects.largest_run();
        self.queues[function][worker] = KeyQueues::new(largest_run);
        let mut inner = self.world.lock();
        let consumer = &mut inner.consumers[function];
        let hands = consumer.in_hand.iter();
        let lost: Vec<u64> = hands
            .filter(|(_, hand)| hand.worker == worker)
            .map(|(number, _)| *number)
            .collect();
        let places: Vec<usize> = lost
            .iter()
            .filter_map(|number| consumer.in_hand.get(number).map(|hand| hand.place))
            .collect();
        for number in lost {
            consumer.give_back(number, false);
        }
        for place in places {
            inner.spoil(place);
        }
    }

    /// The server hears nothing of a delivery for too long, or loses its ack: the event is delivered again while the first
    /// worker may still be at it.
    fn lose(&mut self, function: usize, number: u64) {
        let mut inner = self.world.lock();
        inner.tally.redeliveries += 1;
        let Some(hand) = inner.consumers[function].in_hand.get(&number).copied() else {
            return;
        };
        inner.consumers[function].give_back(number, false);
        inner.spoil(hand.place);
        let subject = inner.streams.log()[hand.place].message.subject.clone();
        drop(inner);
        let name = self.members[function].name();
        self.world.note(|| {
            format!(
                "the server takes the delivery of {subject} to {name} for lost; it will come again"
            )
        });
    }

    /// Publishes what a crash has left in the store. Returns whether any of it is new.
    fn relay(&self) -> bool {
        let now = self.world.now();
        let mut left = self.world.store.unpublished(now);
        // Their keys are random.
        left.sort_by_key(|outbox| outbox.frames.first().map(|frame| frame.id));
        let mut is_new = false;
        for outbox in left {
            for frame in outbox.frames {
                for output in crate::worker::outputs::decode(frame.outputs) {
                    is_new |= self.world.publish(output.message, &self.members);
                }
            }
            self.world.store.published(&[outbox.outbox_key], false);
        }
        is_new
    }
}

/// Waits until a job can go on.
async fn heard(driver: &AtomicWaker, bell: &Bell) {
    poll_fn(|context| {
        driver.register(context.waker());
        if bell.has_rung() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

impl Waiting {
    /// First delivery of a message.
    fn first(place: usize) -> Self {
        Self {
            place,
            attempt: 1,
            is_vouched: true,
        }
    }
}
