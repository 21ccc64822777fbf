//! What the broker reads from files at the start, and can read again while it runs.

use std::{fs, path::Path, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{
    ServerError,
    reload::{Loaded, Reloadable, Subject, WatchedFiles},
};
use crate::{
    config::ServerConfig,
    decide::Decider,
    inspect::{Inspector, LoadedRules},
    model::Clock,
    quota::Quotas,
    seal::SecretFile,
    transport::{
        certificate::CertificateFault,
        connection::ConnectionCounts,
        tls::{ClientAuthorities, ClientVerifier, ServerCertificate, ServerTls, TlsError},
    },
};

/// TLS with the certificate, and with those who vouch for clients where those are asked for certificates.
pub(super) fn tls(
    config: &ServerConfig,
    clock: &Clock,
    connections: &Arc<ConnectionCounts>,
) -> Result<(Arc<ServerTls>, Vec<Reloadable>), ServerError> {
    let pair = WatchedFiles::bytes(vec![config.certificate_file.clone(), config.private_key_file.clone()]);
    let authorities = WatchedFiles::bytes(config.client_ca_file.iter().cloned().collect());
    let (certificate, faults) = certificate(config, clock)?;
    faults.iter().for_each(|fault| tracing::warn!("{fault}"));
    let clients = client_verifier(config)?;
    let (pair_sha256, clients_sha256) = (*certificate.sha256(), clients.as_ref().map(|clients| *clients.sha256()));
    let tls = Arc::new(ServerTls::new(certificate, clients)?);
    let mut reloadable = Vec::new();
    if let Some(sha256) = clients_sha256 {
        let load = load_client_verifier(config, &tls, connections);
        reloadable.push(Reloadable::new(Subject::ClientAuthorities, "", authorities, sha256, load));
    }
    let load = load_certificate(config, clock, &tls);
    reloadable.push(Reloadable::new(Subject::ServerCertificate, "", pair, pair_sha256, load));
    Ok((tls, reloadable))
}

/// The certificate, and what keeps some clients away from it, or all of them until it is valid.
fn certificate(config: &ServerConfig, clock: &Clock) -> Result<(ServerCertificate, Vec<TlsError>), ServerError> {
    let key = SecretFile::read(&config.private_key_file)?;
    if let Some(exposed) = key.exposed() {
        tracing::warn!("{exposed}");
    }
    let certificate = ServerCertificate::load(&config.certificate_file, &key)?;
    let (expired, faults): (Vec<_>, _) =
        certificate.faults(clock.now()).into_iter().partition(|fault| is(fault, CertificateFault::is_expired));
    expired.into_iter().next().map_or(Ok((certificate, faults)), |fault| Err(fault.into()))
}

fn is(error: &TlsError, what: fn(&CertificateFault) -> bool) -> bool {
    matches!(error, TlsError::Certificate { fault, .. } if what(fault))
}

fn load_certificate(
    config: &ServerConfig,
    clock: &Clock,
    tls: &Arc<ServerTls>,
) -> impl Fn() -> Result<Loaded, String> + Send + Sync + use<> {
    let (config, clock, tls) = (config.clone(), clock.clone(), Arc::clone(tls));
    move || {
        let (certificate, faults) = certificate(&config, &clock).map_err(|error| error.to_string())?;
        // Clients that the one before does not keep away stay; one that is over keeps away all.
        let known = tls.certificate().faults(clock.now());
        let is_over = known.iter().any(|fault| is(fault, CertificateFault::is_expired));
        if let Some(new) = faults.iter().find(|fault| !is_over && !known.iter().any(|one| one.is_alike(fault))) {
            return Err(new.to_string());
        }
        let (sha256, tls) = (*certificate.sha256(), Arc::clone(&tls));
        let put_in_force = Box::new(move || {
            faults.iter().for_each(|fault| tracing::warn!("{fault}"));
            if let Err(error) = tls.set_certificate(certificate) {
                tracing::error!(%error, "the certificate could not be replaced");
            }
        });
        Ok(Loaded { sha256, put_in_force })
    }
}

fn client_verifier(config: &ServerConfig) -> Result<Option<ClientVerifier>, TlsError> {
    let authorities = config.client_authorities();
    let load = |(file, is_required)| ClientVerifier::load(ClientAuthorities { file, is_required });
    authorities.map(load).transpose()
}

/// Ends the connections of clients for whom nobody vouches any more.
fn load_client_verifier(
    config: &ServerConfig,
    tls: &Arc<ServerTls>,
    connections: &Arc<ConnectionCounts>,
) -> impl Fn() -> Result<Loaded, String> + Send + Sync + use<> {
    let (config, tls, connections) = (config.clone(), Arc::clone(tls), Arc::clone(connections));
    move || {
        let clients = client_verifier(&config).map_err(|error| error.to_string())?;
        let clients = clients.ok_or("clients are not asked for certificates")?;
        let (sha256, tls, connections) = (*clients.sha256(), Arc::clone(&tls), Arc::clone(&connections));
        let put_in_force = Box::new(move || {
            if let Err(error) = tls.set_clients(clients) {
                return tracing::error!(%error, "the authorities of clients could not be replaced");
            }
            let closed = connections.close_unless_vouched_for(&tls.current());
            tracing::info!(closed, "connections of clients for whom nobody vouches any more are closed");
        });
        Ok(Loaded { sha256, put_in_force })
    }
}

/// The rules of inspection, from a file or built in.
pub(super) fn inspector(path: Option<&Path>) -> Result<(Arc<Inspector>, Option<Reloadable>), ServerError> {
    let Some(path) = path else { return Ok((Arc::new(Inspector::new(None)?), None)) };
    let watched = WatchedFiles::links(path);
    let (loaded, sha256) = rules(path)?;
    let inspector = Arc::new(Inspector::with(loaded));
    let (path, known) = (path.to_owned(), Arc::clone(&inspector));
    let load = move || {
        let (rules, sha256) = rules(&path).map_err(|error| error.to_string())?;
        let known = Arc::clone(&known);
        Ok(Loaded { sha256, put_in_force: Box::new(move || known.put_in_force(rules)) })
    };
    Ok((inspector, Some(Reloadable::new(Subject::InspectionRules, "", watched, sha256, load))))
}

fn rules(path: &Path) -> Result<(LoadedRules, [u8; 32]), ServerError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| ServerError::ReadRules { path: path.to_owned(), source })?;
    Ok((LoadedRules::parse(Some(&text))?, Sha256::digest(&text).into()))
}

/// The policy, as a whole, and what it gives to single agents.
pub(super) fn policy(watched: WatchedFiles, decider: &Arc<Decider>, quotas: &Arc<Quotas>) -> Reloadable {
    let (known, quotas) = (Arc::clone(decider), Arc::clone(quotas));
    let load = move || {
        let policy = known.load_anew().map_err(|error| error.to_string())?;
        let (sha256, known, quotas) = (*policy.sha256(), Arc::clone(&known), Arc::clone(&quotas));
        let put_in_force = Box::new(move || {
            quotas.set_overrides(policy.quotas().clone());
            known.put_in_force(policy);
        });
        Ok(Loaded { sha256, put_in_force })
    };
    Reloadable::new(Subject::Policy, "", watched, decider.policy_sha256(), load)
}
