//! Exchanges, queues, bindings (specification sections 1.6 and 1.7, RabbitMQ's
//! exchange-to-exchange bindings).

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, exchange, queue};
use amq_protocol::types::ShortString;
use isthmus_contract::{Command, CommandError, ManageOp, TopologyChange, declare};
use isthmus_model::{BindingDef, Destination, ExchangeDef, Lifetime, Table};

use crate::codec::method::Method;
use crate::codec::publish::REPLY_TO;
use crate::fault::{Fault, ReplyCode};

use super::channel::Op;
use super::{Amqp091Session, Handled, name};

fn arguments(method: &Method<'_>) -> Result<Table, Fault> {
    method.arguments().map_err(|e| Fault::new(ReplyCode::SyntaxError, e.to_string()))
}

/// The default exchange binds every queue by its name and can neither be declared nor bound.
fn not_default(exchange: &ShortString) -> Result<Arc<str>, Fault> {
    if exchange.as_str().is_empty() {
        return Err(Fault::new(
            ReplyCode::AccessRefused,
            "operation not permitted on the default exchange",
        ));
    }
    Ok(name(exchange))
}

fn unless(nowait: bool, ok: AMQPClass) -> Op {
    if nowait { Op::Nothing } else { Op::Say(ok) }
}

impl Amqp091Session {
    /// Asks the broker for a change, and has `op` done when it is there.
    fn change(&mut self, number: u16, method: (u16, u16), op: Op, change: TopologyChange) {
        let token = self.out.token(number);
        self.pend(number, token, method, op, None);
        self.command(Command::Topology { token, change });
    }

    pub(super) fn exchange_class(
        &mut self,
        number: u16,
        class: &exchange::AMQPMethod,
        method: &Method<'_>,
    ) -> Handled {
        use exchange::AMQPMethod as M;
        match class {
            M::Declare(declare) => self.declare_exchange(number, declare, arguments(method)?),
            M::Delete(delete) => {
                let exchange = not_default(&delete.exchange)?;
                let ok = AMQPClass::Exchange(M::DeleteOk(exchange::DeleteOk {}));
                let if_unused = delete.if_unused;
                self.change(
                    number,
                    (40, 20),
                    unless(delete.nowait, ok),
                    TopologyChange::DeleteExchange { name: exchange, if_unused },
                );
                Ok(())
            }
            M::Bind(bind) => {
                let binding = BindingDef {
                    source: not_default(&bind.source)?,
                    destination: Destination::Exchange(not_default(&bind.destination)?),
                    routing_key: name(&bind.routing_key),
                    arguments: arguments(method)?,
                };
                let ok = AMQPClass::Exchange(M::BindOk(exchange::BindOk {}));
                let op = unless(bind.nowait, ok);
                self.change(number, (40, 30), op, TopologyChange::Bind(binding));
                Ok(())
            }
            M::Unbind(unbind) => {
                let binding = BindingDef {
                    source: not_default(&unbind.source)?,
                    destination: Destination::Exchange(not_default(&unbind.destination)?),
                    routing_key: name(&unbind.routing_key),
                    arguments: arguments(method)?,
                };
                let ok = AMQPClass::Exchange(M::UnbindOk(exchange::UnbindOk {}));
                let op = unless(unbind.nowait, ok);
                self.change(number, (40, 40), op, TopologyChange::Unbind(binding));
                Ok(())
            }
            _ => Err(Fault::new(ReplyCode::CommandInvalid, "not a method for clients")),
        }
    }

    fn declare_exchange(
        &mut self,
        number: u16,
        declare: &exchange::Declare,
        arguments: Table,
    ) -> Handled {
        let exchange = not_default(&declare.exchange)?;
        let ok = AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}));
        let op = unless(declare.nowait, ok);
        if declare.passive {
            self.change(number, (40, 10), op, TopologyChange::LookUpExchange { name: exchange });
            return Ok(());
        }
        let (kind, delayed) =
            declare::exchange_kind(declare.kind.as_str(), &arguments).map_err(|e| match e {
                CommandError::Invalid(text) => Fault::new(ReplyCode::CommandInvalid, text),
                other => Fault::from_refusal(&other),
            })?;
        let def = ExchangeDef {
            name: exchange,
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            delayed,
            arguments,
        };
        self.change(number, (40, 10), op, TopologyChange::DeclareExchange(def));
        Ok(())
    }

    pub(super) fn queue_class(
        &mut self,
        number: u16,
        class: &queue::AMQPMethod,
        method: &Method<'_>,
    ) -> Handled {
        use queue::AMQPMethod as M;
        match class {
            M::Declare(declare) => self.declare_queue(number, declare, arguments(method)?),
            M::Bind(bind) => {
                let (exchange, key) = (&bind.exchange, &bind.routing_key);
                let binding =
                    self.queue_binding(number, exchange, &bind.queue, key, arguments(method)?)?;
                let ok = AMQPClass::Queue(M::BindOk(queue::BindOk {}));
                let op = unless(bind.nowait, ok);
                self.change(number, (50, 20), op, TopologyChange::Bind(binding));
                Ok(())
            }
            M::Unbind(unbind) => {
                let (exchange, key) = (&unbind.exchange, &unbind.routing_key);
                let binding =
                    self.queue_binding(number, exchange, &unbind.queue, key, arguments(method)?)?;
                let op = Op::Say(AMQPClass::Queue(M::UnbindOk(queue::UnbindOk {})));
                self.change(number, (50, 50), op, TopologyChange::Unbind(binding));
                Ok(())
            }
            M::Purge(purge) => {
                let queue = self.queue_name(number, &purge.queue)?;
                let op = if purge.nowait { Op::Nothing } else { Op::Count(purge_ok) };
                let token = self.out.token(number);
                self.pend(number, token, (50, 30), op, None);
                self.command(Command::Manage { token, op: ManageOp::Purge { queue } });
                Ok(())
            }
            M::Delete(delete) => {
                let queue = self.queue_name(number, &delete.queue)?;
                let op = if delete.nowait { Op::Nothing } else { Op::Count(delete_ok) };
                let (if_unused, if_empty) = (delete.if_unused, delete.if_empty);
                self.change(
                    number,
                    (50, 40),
                    op,
                    TopologyChange::DeleteQueue { name: queue, if_unused, if_empty },
                );
                Ok(())
            }
            _ => Err(Fault::new(ReplyCode::CommandInvalid, "not a method for clients")),
        }
    }

    fn queue_binding(
        &mut self,
        number: u16,
        exchange: &ShortString,
        queue: &ShortString,
        key: &ShortString,
        arguments: Table,
    ) -> Result<BindingDef, Fault> {
        let destination = self.queue_name(number, queue)?;
        // Neither queue nor key given: the key is the queue's name (section 1.7.2.3).
        let routing_key = if queue.as_str().is_empty() && key.as_str().is_empty() {
            destination.clone()
        } else {
            name(key)
        };
        Ok(BindingDef {
            source: not_default(exchange)?,
            destination: Destination::Queue(destination),
            routing_key,
            arguments,
        })
    }

    fn declare_queue(
        &mut self,
        number: u16,
        declare: &queue::Declare,
        arguments: Table,
    ) -> Handled {
        if declare.queue.as_str() == REPLY_TO {
            // It exists for everybody, as far as anybody can tell.
            let class = queue::AMQPMethod::DeclareOk(queue::DeclareOk {
                queue: REPLY_TO.into(),
                message_count: 0,
                consumer_count: 1,
            });
            if !declare.nowait {
                self.reply(number, AMQPClass::Queue(class));
            }
            return Ok(());
        }
        let unnamed = !declare.passive && declare.queue.as_str().is_empty();
        let op = Op::DeclareQueue { nowait: declare.nowait, unnamed };
        if declare.passive {
            let queue = self.queue_name(number, &declare.queue)?;
            self.change(number, (50, 10), op, TopologyChange::LookUpQueue { name: queue });
            return Ok(());
        }
        let queue = name(&declare.queue);
        let lifetime = if declare.exclusive {
            Lifetime::Exclusive(self.config.id)
        } else if declare.durable {
            Lifetime::Durable
        } else {
            Lifetime::Volatile
        };
        let auto_delete = declare.auto_delete;
        let def = declare::queue(queue.clone(), lifetime, auto_delete, arguments, &self.peer.vhost)
            .map_err(|e| Fault::from_refusal(&e))?;
        // Methods that follow without waiting mean this queue, if its name is known already.
        if !queue.is_empty() {
            self.remember_queue(number, queue);
        }
        self.change(number, (50, 10), op, TopologyChange::DeclareQueue(def));
        Ok(())
    }

    /// The queue that a method means: the one it names, or the one declared last.
    pub(super) fn queue_name(
        &mut self,
        number: u16,
        queue: &ShortString,
    ) -> Result<Arc<str>, Fault> {
        if !queue.as_str().is_empty() {
            return Ok(name(queue));
        }
        self.open_channel(number)
            .map(|c| c.last_queue.clone())
            .filter(|last| !last.is_empty())
            .ok_or_else(|| Fault::new(ReplyCode::NotFound, "no previously declared queue"))
    }
}

fn purge_ok(message_count: u32) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::PurgeOk(queue::PurgeOk { message_count }))
}

fn delete_ok(message_count: u32) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::DeleteOk(queue::DeleteOk { message_count }))
}
