//! What openraft runs on.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use openraft::impls::TokioRuntime;
use openraft::{AsyncRuntime, OptionalSend};
use rand::TryRng;
use rand::rngs::ThreadRng;

use super::watch::OrderedWatch;

/// tokio, with numbers drawn for elections that an embedder can choose, see [`draw_from`].
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

/// Where numbers come from.
type Source = Box<dyn FnMut() -> u64>;

thread_local! {
    static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
}

/// From now on what openraft draws on this thread comes from `source`, so that a simulation can be
/// replayed; with `None` from the generator that the operating system has seeded, as it does
/// where nobody has called this.
pub fn draw_from(source: Option<Source>) {
    SOURCE.set(source);
}

/// A number from the source of this thread, if there is one.
pub(crate) fn drawn() -> Option<u64> {
    SOURCE.with_borrow_mut(|source| source.as_mut().map(|draw| draw()))
}

/// Draws numbers on one thread.
#[derive(Debug)]
pub struct Draws(ThreadRng);

impl TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        // The high half, as good as the low one.
        Ok((self.try_next_u64()? >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match drawn() {
            Some(number) => Ok(number),
            None => self.0.try_next_u64(),
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for piece in bytes.chunks_mut(8) {
            let number = self.try_next_u64()?.to_le_bytes();
            piece.copy_from_slice(&number[..piece.len()]);
        }
        Ok(())
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Draws;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = OrderedWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Draws(rand::rng())
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn what_is_drawn_can_be_chosen_and_given_back() {
        let mut next = 0;
        draw_from(Some(Box::new(move || {
            next += 1;
            next << 32
        })));
        let mut draws = Runtime::thread_rng();
        assert_eq!((draws.next_u64(), draws.next_u32()), (1 << 32, 2));
        let mut bytes = [9; 10];
        draws.fill_bytes(&mut bytes);
        assert_eq!(bytes, [0, 0, 0, 0, 3, 0, 0, 0, 0, 0]);
        draw_from(None);
        assert_ne!(draws.next_u64(), draws.next_u64(), "as good as never the same");
    }
}
