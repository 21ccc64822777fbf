//! Shared state that a test can look into, with the faults that it asks for.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use veribus_proto::v1::{
    self, DeleteRequest, DeleteResponse, GetRequest, GetResponse, ListRequest, ListResponse, PutRequest, PutResponse,
    SessionRequest, SessionResponse, StateOperation, StateRefusal, StateResult, WatchRequest, WatchResponse,
    WatchTarget, state_operation::Operation, state_result::Result as Told, state_service_server::StateService,
    watch_request,
};

use super::fake::{Answers, End, Fake, Refresh, Service, State, status};

/// How many values a page holds.
const PAGE: usize = 2;

/// What befalls a unary call.
pub(super) enum Fault {
    /// Nothing is done.
    Before(Status),
    /// It is done, and the answer is lost.
    After(Status),
    /// Somebody else writes this first.
    Overtaken(&'static str),
}

/// What a session does. The default carries everything out for ever.
#[derive(Default)]
pub(super) struct SessionScript {
    pub(super) refuse: Option<Status>,
    /// Ends after so many results.
    pub(super) end: Option<(usize, End)>,
    pub(super) refresh: Refresh,
    /// Reads after the first of a request have no room in the answer.
    pub(super) reads_are_large: bool,
    /// Puts another result in the place of the true one.
    pub(super) result: Option<fn(&StateOperation) -> Option<Told>>,
}

/// What a watch does: says these things, then ends or stays.
#[derive(Default)]
pub(super) struct WatchScript {
    pub(super) responses: Vec<Result<WatchResponse, Status>>,
    pub(super) stays: bool,
    pub(super) after_refresh: VecDeque<Vec<Result<WatchResponse, Status>>>,
}

/// What came over a session, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StateCame {
    Opened,
    Refresh { token: String },
    Operation { about: String },
}

#[derive(Default)]
pub(super) struct Shared {
    values: Mutex<BTreeMap<String, Vec<(u64, PutRequest)>>>,
    pub(super) faults: Mutex<VecDeque<Fault>>,
    pub(super) sessions: Mutex<VecDeque<SessionScript>>,
    pub(super) watches: Mutex<VecDeque<Result<WatchScript, Status>>>,
    pub(super) targets: Mutex<Vec<WatchTarget>>,
    pub(super) came: Mutex<Vec<StateCame>>,
    /// Changes the answers to reads.
    pub(super) tamper: Mutex<Option<fn(&mut GetResponse)>>,
    /// Changes listings.
    pub(super) tamper_list: Mutex<Option<fn(&mut ListResponse)>>,
    /// How often a change was carried out.
    pub(super) changes: Mutex<usize>,
}

impl Fake {
    pub(super) fn next_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.shared.faults.lock().unwrap().extend(faults);
    }

    pub(super) fn next_session(&self, script: SessionScript) {
        self.state.shared.sessions.lock().unwrap().push_back(script);
    }

    pub(super) fn next_watch(&self, script: Result<WatchScript, Status>) {
        self.state.shared.watches.lock().unwrap().push_back(script);
    }

    pub(super) fn targets(&self) -> Vec<(String, u64)> {
        let targets = self.state.shared.targets.lock().unwrap();
        targets.iter().map(|target| (target.prefix.clone(), target.after_revision)).collect()
    }

    pub(super) fn state_came(&self) -> Vec<StateCame> {
        self.state.shared.came.lock().unwrap().clone()
    }

    pub(super) fn changes(&self) -> usize {
        *self.state.shared.changes.lock().unwrap()
    }

    /// What the last write of this key was.
    pub(super) fn written(&self, key: &str) -> Option<PutRequest> {
        let values = self.state.shared.values.lock().unwrap();
        values.get(key).and_then(|versions| versions.last()).map(|(_, put)| put.clone())
    }
}

pub(super) fn metadata(key: &str, revision: u64, put: &PutRequest, earlier: Vec<u64>) -> v1::StateMetadata {
    let expires = (put.ttl_s > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(put.ttl_s));
    v1::StateMetadata {
        key: key.to_owned(),
        revision,
        content_type: put.content_type.clone(),
        size_bytes: put.value.len() as u64,
        expires_at: expires.map(Into::into),
        written_at: Some(SystemTime::UNIX_EPOCH.into()),
        writer: Some(v1::Actor { issuer: "issuer".to_owned(), agent: "agent".to_owned(), ..v1::Actor::default() }),
        earlier_revisions: earlier,
    }
}

fn refusal(code: Code, reason: &str, current_revision: u64) -> Told {
    Told::Refusal(StateRefusal { code: code.into(), reason: reason.to_owned(), current_revision, ..<_>::default() })
}

impl State {
    fn carry_out(&self, operation: Operation) -> Told {
        match operation {
            Operation::Put(put) => self.write(put),
            Operation::Get(get) => self.read(&get),
            Operation::Delete(delete) => self.delete(&delete),
            Operation::List(list) => self.listing(&list),
        }
    }

    fn current(&self, key: &str) -> u64 {
        let values = self.shared.values.lock().unwrap();
        values.get(key).and_then(|versions| versions.last()).map_or(0, |(revision, _)| *revision)
    }

    fn conflict(&self, key: &str, expected: Option<u64>) -> Option<Told> {
        let current = self.current(key);
        expected.filter(|expected| *expected != current).map(|_| refusal(Code::Aborted, "REVISION_CONFLICT", current))
    }

    fn write(&self, put: PutRequest) -> Told {
        if let Some(conflict) = self.conflict(&put.key, put.expected_revision) {
            return conflict;
        }
        let revision = self.index();
        *self.shared.changes.lock().unwrap() += 1;
        self.shared.values.lock().unwrap().entry(put.key.clone()).or_default().push((revision, put));
        Told::Put(PutResponse { revision, decision_id: format!("fake-{revision}"), content_salt: vec![7; 32] })
    }

    fn read(&self, get: &GetRequest) -> Told {
        let values = self.shared.values.lock().unwrap();
        let versions = values.get(&get.key).map(Vec::as_slice).unwrap_or_default();
        let is_asked_for = |(revision, _): &&(u64, PutRequest)| get.revision == 0 || get.revision == *revision;
        let Some((revision, put)) = versions.iter().rev().find(is_asked_for) else {
            return refusal(Code::NotFound, "NOT_FOUND", 0);
        };
        let audit_index = self.index();
        let metadata = Some(metadata(&get.key, *revision, put, Vec::new()));
        let value = Some(v1::StateValue { metadata, value: put.value.clone() });
        let mut answer = GetResponse { value, decision_id: format!("fake-{audit_index}"), audit_index };
        if let Some(tamper) = *self.shared.tamper.lock().unwrap() {
            tamper(&mut answer);
        }
        Told::Get(answer)
    }

    fn delete(&self, delete: &DeleteRequest) -> Told {
        if let Some(conflict) = self.conflict(&delete.key, delete.expected_revision) {
            return conflict;
        }
        let revision = self.index();
        *self.shared.changes.lock().unwrap() += 1;
        let existed = self.shared.values.lock().unwrap().remove(&delete.key).is_some();
        Told::Delete(DeleteResponse { revision, decision_id: format!("fake-{revision}"), existed })
    }

    fn listing(&self, list: &ListRequest) -> Told {
        let values = self.shared.values.lock().unwrap();
        let known = |(key, versions): (&String, &Vec<(u64, PutRequest)>)| {
            let (last, earlier) = versions.split_last().unwrap();
            metadata(key, last.0, &last.1, earlier.iter().map(|(revision, _)| *revision).collect())
        };
        let after = |key: &str| key.starts_with(&list.prefix) && *key > *list.page_token;
        let mut all: Vec<_> = values.iter().filter(|(key, _)| after(key)).map(known).collect();
        let is_last = all.len() <= PAGE;
        all.truncate(PAGE);
        let next_page_token = if is_last { String::new() } else { all.last().unwrap().key.clone() };
        let audit_index = self.index();
        let mut answer =
            ListResponse { values: all, next_page_token, decision_id: format!("fake-{audit_index}"), audit_index };
        if let Some(tamper) = *self.shared.tamper_list.lock().unwrap() {
            tamper(&mut answer);
        }
        Told::List(answer)
    }

    fn unary(&self, operation: Operation) -> Result<Told, Status> {
        let fault = self.shared.faults.lock().unwrap().pop_front();
        if let Some(Fault::Before(status)) = fault {
            return Err(status);
        }
        if let Some(Fault::Overtaken(key)) = fault {
            self.write(PutRequest { key: key.to_owned(), value: "theirs".into(), ..PutRequest::default() });
        }
        let told = self.carry_out(operation);
        match (told, fault) {
            (_, Some(Fault::After(status))) => Err(status),
            (Told::Refusal(refusal), _) => {
                let current = refusal.current_revision.to_string();
                Err(status(Code::from_i32(refusal.code), &refusal.reason, &[("current_revision", &current)]))
            }
            (told, _) => Ok(told),
        }
    }
}

#[tonic::async_trait]
impl StateService for Service {
    type WatchStream = Answers<WatchResponse>;
    type SessionStream = Answers<SessionResponse>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.0.note_token(&request, "Put");
        let Told::Put(answer) = self.0.unary(Operation::Put(request.into_inner()))? else { unreachable!() };
        Ok(Response::new(answer))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.0.note_token(&request, "Get");
        let Told::Get(answer) = self.0.unary(Operation::Get(request.into_inner()))? else { unreachable!() };
        Ok(Response::new(answer))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        self.0.note_token(&request, "Delete");
        let Told::Delete(answer) = self.0.unary(Operation::Delete(request.into_inner()))? else { unreachable!() };
        Ok(Response::new(answer))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        self.0.note_token(&request, "List");
        let Told::List(answer) = self.0.unary(Operation::List(request.into_inner()))? else { unreachable!() };
        Ok(Response::new(answer))
    }

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        self.0.note_token(&request, "Watch");
        let script = self.0.shared.watches.lock().unwrap().pop_front().expect("an unexpected watch")?;
        let (sender, answers) = mpsc::channel(16);
        tokio::spawn(follow(Arc::clone(&self.0), script, request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        self.0.note_token(&request, "Session");
        let mut script = self.0.shared.sessions.lock().unwrap().pop_front().unwrap_or_default();
        self.0.shared.came.lock().unwrap().push(StateCame::Opened);
        if let Some(status) = script.refuse.take() {
            return Err(status);
        }
        let (sender, answers) = mpsc::channel(16);
        tokio::spawn(operate(Arc::clone(&self.0), script, request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

async fn operate(
    state: Arc<State>,
    script: SessionScript,
    mut requests: Streaming<SessionRequest>,
    answers: mpsc::Sender<Result<SessionResponse, Status>>,
) {
    let mut given = 0;
    while let Ok(Some(request)) = requests.message().await {
        if let Some(refresh) = &request.refresh {
            state.note_refresh(refresh, "Session");
            state.shared.came.lock().unwrap().push(StateCame::Refresh { token: refresh.token.clone() });
            match script.refresh {
                Refresh::Take => {
                    let refreshed = Some(v1::Refreshed::default());
                    let _ = answers.send(Ok(SessionResponse { results: Vec::new(), refreshed })).await;
                }
                Refresh::Refuse => {
                    let _ = answers.send(Err(Status::unauthenticated("unauthenticated"))).await;
                    return;
                }
                Refresh::Ignore => {}
            }
        }
        for (place, operation) in request.operations.into_iter().enumerate() {
            if let Some((after, end)) = &script.end
                && given == *after
            {
                return match end.clone() {
                    End::Status(status) => drop(answers.send(Err(status)).await),
                    End::KillConnection => state.kill_connections(),
                };
            }
            state.shared.came.lock().unwrap().push(StateCame::Operation { about: about(&operation) });
            let is_read = matches!(operation.operation, Some(Operation::Get(_)));
            let too_large = (script.reads_are_large && is_read && place > 0)
                .then(|| refusal(Code::ResourceExhausted, "ANSWER_TOO_LARGE", 0));
            let other = script.result.and_then(|result| result(&operation)).or(too_large);
            let told = other.unwrap_or_else(|| state.carry_out(operation.operation.unwrap()));
            let results = vec![StateResult { result: Some(told) }];
            let _ = answers.send(Ok(SessionResponse { results, refreshed: None })).await;
            given += 1;
        }
    }
}

fn about(operation: &StateOperation) -> String {
    match operation.operation.as_ref().unwrap() {
        Operation::Put(put) => format!("put {}", put.key),
        Operation::Get(get) => format!("get {}", get.key),
        Operation::Delete(delete) => format!("delete {}", delete.key),
        Operation::List(list) => format!("list {}", list.prefix),
    }
}

async fn follow(
    state: Arc<State>,
    mut script: WatchScript,
    mut requests: Streaming<WatchRequest>,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
) {
    let first = requests.message().await.unwrap().expect("a target").request;
    let Some(watch_request::Request::Target(target)) = first else { panic!("no target") };
    state.shared.targets.lock().unwrap().push(target);
    for response in script.responses {
        let _ = answers.send(response).await;
    }
    if script.stays {
        while let Ok(Some(request)) = requests.message().await {
            let Some(watch_request::Request::Refresh(refresh)) = request.request else { return };
            state.note_refresh(&refresh, "Watch");
            state.refreshes.lock().unwrap().push(refresh);
            for response in script.after_refresh.pop_front().unwrap_or_default() {
                let ends = response.is_err();
                let _ = answers.send(response).await;
                if ends {
                    return;
                }
            }
        }
        state.unsubscribed.send_modify(|count| *count += 1);
    }
}
