//! Asks a compiled policy, and remembers what it said.

use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use regorus::{Engine, Value};

use super::{
    bundle::{Bundle, EvaluationError, eval},
    input::{self, Lasting, Question},
    meter::{self, Interruption},
    sink::{KeySink, ValueSink},
    verdict::{Decision, Verdict},
};
use crate::model::{RefusalReason, UnixMicros};

/// How many idle engines are kept: one for each evaluation that runs at the same time, within reason.
const IDLE_ENGINES_MAX: usize = 16;

/// A policy in force.
pub(super) struct Policy {
    bundle: Bundle,
    idle: Mutex<Vec<Engine>>,
    remembered: Cache<[u8; 32], Verdict>,
    lasting: Lasting,
}

impl Policy {
    pub(super) fn new(bundle: Bundle, cache_entries_max: usize) -> Self {
        let lasting = Lasting::new(&bundle.reads);
        Self { bundle, idle: Mutex::default(), remembered: Cache::new(cache_entries_max), lasting }
    }

    pub(super) const fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The policy's answer. What fails on the way is a denial.
    pub(super) fn ask(&self, question: &Question<'_>, now: UnixMicros) -> Verdict {
        if !self.lasting.covers(question) {
            return self.evaluate(question, now).0;
        }
        let mut key = KeySink::default();
        input::describe(question, &self.bundle.settings, now, &self.bundle.reads, &mut key);
        let key = key.finish();
        if let Some(verdict) = self.remembered.get(&key) {
            return verdict;
        }
        let (verdict, sound) = self.evaluate(question, now);
        if sound {
            self.remembered.insert(key, verdict.clone());
        }
        verdict
    }

    /// The verdict, and whether it is the policy's own (and not that of a failure, which may pass).
    fn evaluate(&self, question: &Question<'_>, now: UnixMicros) -> (Verdict, bool) {
        let mut value = ValueSink::default();
        input::describe(question, &self.bundle.settings, now, &self.bundle.reads, &mut value);
        let mut engine = self.idle.lock().pop().unwrap_or_else(|| self.bundle.engine.clone());
        let verdict = value.finish().ok_or(EvaluationError::Number).and_then(|input| {
            meter::run(self.bundle.steps_max, || self.evaluate_on(&mut engine, input)).map_err(EvaluationError::from)?.0
        });
        match verdict {
            Ok(verdict) => {
                let mut idle = self.idle.lock();
                if idle.len() < IDLE_ENGINES_MAX {
                    idle.push(engine);
                }
                (verdict, true)
            }
            Err(error) => {
                tracing::error!(error = error.without_values(), "the policy could not be evaluated: denied");
                let rule = match error {
                    EvaluationError::Interrupted(Interruption::Panic) => "native/policy-panic",
                    EvaluationError::Interrupted(_) => "native/policy-budget",
                    EvaluationError::Number => "native/policy-input",
                    EvaluationError::Engine(_) | EvaluationError::Shape(_) | EvaluationError::Reference(_) => {
                        "native/policy-error"
                    }
                };
                (Verdict::denied(rule, RefusalReason::DecisionFailed, *self.bundle.sha256()), false)
            }
        }
    }

    fn evaluate_on(&self, engine: &mut Engine, input: Value) -> Result<Verdict, EvaluationError> {
        engine.set_input(input);
        let verdict =
            |decision, rules: Arc<[String]>| Verdict { rules, ..Verdict::new(decision, &[], *self.bundle.sha256()) };
        let rules = self.bundle.rules;
        let denying = if rules.deny { rule_names(engine, "data.veribus.deny")? } else { Vec::new() };
        let holding = if rules.quarantine { rule_names(engine, "data.veribus.quarantine")? } else { Vec::new() };
        let allowed = match eval(engine, "data.veribus.allow")? {
            Value::Bool(allowed) => allowed,
            Value::Undefined => false,
            _ => return Err(EvaluationError::Shape("data.veribus.allow")),
        };
        Ok(match (denying.is_empty(), holding.is_empty(), allowed) {
            (false, _, _) => verdict(Decision::Deny, denying.into()),
            (true, false, _) => verdict(Decision::Quarantine, holding.into()),
            (true, true, true) => verdict(Decision::Allow, Arc::new([])),
            (true, true, false) => Verdict::new(Decision::Deny, &["native/not-allowed"], *self.bundle.sha256()),
        })
    }
}

/// The set holds objects with a text `rule`, or texts. Anything else is no answer.
fn rule_names(engine: &mut Engine, rule: &'static str) -> Result<Vec<String>, EvaluationError> {
    let Value::Set(spoken) = eval(engine, rule)? else { return Err(EvaluationError::Shape(rule)) };
    spoken
        .iter()
        .map(|one| {
            let name = if one.as_object().is_ok() { &one["rule"] } else { one };
            name.as_string().map(ToString::to_string).map_err(|_| EvaluationError::Shape(rule))
        })
        .collect()
}
