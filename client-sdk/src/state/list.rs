//! Listings, page by page.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    vec,
};

use futures_util::{Stream, stream};
use veribus_proto::v1::ListRequest;

use super::{
    State, StateMetadata, StatePage,
    call::{self, Effect, Service},
};
use crate::{Error, present::Method};

/// What is known of the values under a prefix, in key order. See [`State::list`]. Ends after the first error.
pub struct StateList {
    values: Pin<Box<dyn Stream<Item = Result<StateMetadata, Error>> + Send>>,
}

impl StateList {
    pub(super) fn new(state: State, prefix: String) -> Self {
        let request = Some(ListRequest { prefix, ..ListRequest::default() });
        let pager = Pager { state, request, last_key: String::new(), buffered: Vec::new().into_iter() };
        let values = stream::unfold(pager, |mut pager| async { pager.next().await.map(|item| (item, pager)) });
        Self { values: Box::pin(values) }
    }
}

impl Stream for StateList {
    type Item = Result<StateMetadata, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.values.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for StateList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateList").finish_non_exhaustive()
    }
}

struct Pager {
    state: State,
    /// What to ask for next; `None` where there is no more.
    request: Option<ListRequest>,
    last_key: String,
    buffered: vec::IntoIter<StateMetadata>,
}

impl Pager {
    async fn next(&mut self) -> Option<Result<StateMetadata, Error>> {
        loop {
            if let Some(value) = self.buffered.next() {
                return Some(Ok(value));
            }
            let request = self.request.take()?;
            if let Err(error) = self.fill(request).await {
                return Some(Err(error));
            }
        }
    }

    async fn fill(&mut self, request: ListRequest) -> Result<(), Error> {
        let session = &self.state.session;
        let once = |mut service: Service, request| async move { service.list(request).await };
        let answer =
            call::call(session, Method::STATE_LIST, Effect::None, &request.prefix, request.clone(), once).await?;
        let page = StatePage::check(answer, &request.prefix)?;
        if page.values.first().is_some_and(|first| first.key <= self.last_key) {
            return Err(Error::Protocol("a listing is out of order"));
        }
        if let Some(last) = page.values.last() {
            self.last_key.clone_from(&last.key);
        }
        self.request = page.next_page_token.map(|page_token| ListRequest { page_token, ..request });
        self.buffered = page.values.into_iter();
        Ok(())
    }
}
