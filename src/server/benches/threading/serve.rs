//! The broker as a child process: what the parent holds of it, and what it does.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use isthmus_amqp091::{Amqp091Encoding, Amqp091Session, SessionConfig};
use isthmus_broker::cluster::SingleOptions;
use isthmus_broker::storage::{LogOptions, RealStorage, Threads};
use isthmus_broker::{
    Access, Authenticate, Broker, BrokerOptions, Combining, Driver, Entering, Limits, Login,
    PagingOptions, Peer, RecoveryError, ScrubOptions, Shard, Unrestricted, User,
};
use isthmus_contract::Credentials;
use isthmus_contract::model::{EncodingId, Encodings, SessionId};
use tokio::net::TcpListener;

use crate::drivers::{Candidate, Locked, ShardThread};

/// The first argument of a child.
pub(crate) const COMMAND: &str = "serve";

const ENCODINGS: Encodings = Encodings(&[(EncodingId::AMQP_0_9_1, &Amqp091Encoding)]);

/// Smaller than the server's, so that the spare segments made at each of the many starts do not
/// use up what the disk can do at full speed.
const SEGMENT_BYTES: u64 = 16 << 20;

/// A broker that runs in a child process, and ends when this is dropped.
pub(crate) struct Served {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Served {
    /// Starts a broker over an empty folder; `durable` if it will be given durable messages.
    pub(crate) fn start(
        candidate: Candidate,
        dir: &Path,
        durable: bool,
        workers: Option<usize>,
    ) -> io::Result<Served> {
        // Tokio's own default is the number of CPUs too.
        let workers = workers.map_or_else(thread::available_parallelism, |workers| {
            NonZeroUsize::new(workers).ok_or(io::ErrorKind::InvalidInput.into())
        })?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([COMMAND, candidate.name(), if durable { "durable" } else { "transient" }])
            .arg(workers.to_string())
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().map(|stdout| {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let mut served = Served { child, address: (Ipv4Addr::LOCALHOST, 0).into() };
        let line = said.transpose()?.unwrap_or_default();
        let port = line.trim().parse();
        served.address.set_port(port.map_err(|_| io::Error::other("the broker did not start"))?);
        Ok(served)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Nothing it holds is wanted any more. Both fail only if it has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Serves AMQP on a port of the system's choice, printed once it listens, until the parent has
/// gone.
pub(crate) fn child(args: &[String]) -> Result<(), Box<dyn Error>> {
    let [candidate, durable, workers, dir] = args else {
        return Err("the arguments of a child: DRIVER KIND WORKERS FOLDER".into());
    };
    let candidate = Candidate::ALL.into_iter().find(|c| c.name() == candidate);
    let candidate = candidate.ok_or("no such driver")?;
    // Ends with the parent, whatever that ended of.
    thread::spawn(|| {
        drop(io::stdin().read(&mut [0]));
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.parse()?)
        .enable_all()
        .build()?;
    let broker = {
        let _entered = runtime.enter();
        start(candidate, Path::new(dir), durable == "durable")?
    };
    runtime.block_on(accept(broker))
}

async fn accept(broker: Broker) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    writeln!(io::stdout(), "{}", listener.local_addr()?.port())?;
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let broker = broker.clone();
        tokio::spawn(async move {
            let session = |id, now| {
                let config = SessionConfig::new(SessionId(0));
                Box::new(Amqp091Session::new(SessionConfig { id, ..config }, now)) as Box<_>
            };
            // The load hangs up without a word, and notices itself if it is hung up on.
            drop(broker.serve(stream, Peer::plain(peer), session, std::future::pending()).await);
        });
    }
}

fn start(candidate: Candidate, dir: &Path, durable: bool) -> Result<Broker, Box<dyn Error>> {
    let options = options(dir, durable)?;
    let broker = match candidate {
        Candidate::Combining => drive(options, Combining::start),
        Candidate::Locked => drive(options, Locked::start),
        Candidate::ShardThread => drive(options, ShardThread::start),
    };
    Ok(broker?)
}

fn drive<D: Driver>(
    options: BrokerOptions,
    start: impl FnOnce(Shard) -> Arc<D>,
) -> Result<Broker, RecoveryError> {
    Broker::start(options, start)
}

/// As the server's defaults are, but for the segments.
fn options(dir: &Path, durable: bool) -> io::Result<BrokerOptions> {
    let defaults = LogOptions::default();
    let log = LogOptions {
        segment_bytes: SEGMENT_BYTES,
        // Without durable messages nothing of what it costs to make them ahead comes back.
        spares: if durable { defaults.spares } else { 0 },
        ..defaults
    };
    Ok(BrokerOptions {
        storage: Arc::new(RealStorage::open(dir)?),
        node: SingleOptions { log, ..SingleOptions::default() },
        encodings: ENCODINGS,
        authenticate: Arc::new(Anyone),
        on_settings: Box::new(|_| {}),
        vhosts: vec!["/".to_owned()],
        outbox_bytes_max: 256 << 10,
        publish_bytes_max: 4 << 20,
        paging: PagingOptions {
            checkpoint_after_bytes: 512 << 20,
            unpaged_bytes_max: 64 << 20,
            page_bytes: 256 << 10,
            file_bytes: 32 << 20,
            log_kept_bytes: 0,
        },
        scrub: ScrubOptions::default(),
        page_bytes_max: 64 << 20,
        retained_bytes_max: 64 << 20,
        own_exchange: None,
        name_seed: [0; 32],
        on_log_failure: Box::new(|error| {
            eprintln!("the log has failed: {error}");
            std::process::abort();
        }),
        threads: Threads::real(),
    })
}

/// Lets everybody in: a password's hash costs more than many a run.
struct Anyone;

/// May do everything.
struct Somebody(Arc<str>);

impl User for Somebody {
    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn tags(&self) -> Vec<String> {
        Vec::new()
    }

    fn enter(&self, _vhost: &Arc<str>) -> Entering {
        Box::pin(std::future::ready(Ok(Box::new(Unrestricted) as Box<dyn Access>)))
    }

    fn limits(&self, _vhost: &str) -> Limits {
        Limits::default()
    }
}

impl Authenticate for Anyone {
    fn login(&self, credentials: Credentials, _peer: &Peer) -> Login {
        let Credentials::Password { user, .. } = credentials else {
            unreachable!("the load generator gives passwords");
        };
        let user: Arc<dyn User> = Arc::new(Somebody(user.into()));
        Box::pin(std::future::ready(Ok(user)))
    }
}
