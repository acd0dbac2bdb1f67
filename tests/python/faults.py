"""The seeded faults of the conformance page: for each of its rows, what is perverted.

A row whose tests pass although the proxy commits its fault has tests that show nothing.
"""

from typing import Callable, NamedTuple

from pika.spec import (
    Access, Basic, BasicProperties, Channel, Confirm, Connection, Exchange, Queue, Tx,
)

from faultproxy import BROKER, CLIENT, method_unit

DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


class Fault(NamedTuple):
    """One thing that goes wrong, and the tests that must notice it."""

    row: str
    name: str
    # Names of tests, or none for all that the row names.
    tests: tuple
    # Called with the session, the sender and the unit; returns what goes on instead, or None.
    commit: Callable


FAULTS = []


def fault(row, name, *tests):
    """Declares the function below as a fault for a row of the page."""
    def declare(commit):
        FAULTS.append(Fault(row, name, tests, commit))
        return commit
    return declare


def ignoring(answer, *methods, unless=lambda method: False):
    """A fault: the broker answers these methods of the client and does nothing about them.

    `answer` makes the answer from the method, or is None where the method has none.
    """
    def commit(session, sender, unit):
        if sender == CLIENT and unit.is_a(*methods) and not unless(unit.method):
            return session.answer(unit.channel, answer(unit.method)) if answer else []
    return commit


def changing(sender, method, **values):
    """A fault: fields of a method are not what its sender set."""
    def commit(_session, from_whom, unit):
        if from_whom == sender and unit.is_a(method):
            for key, value in values.items():
                setattr(unit.method, key, value)
            return [unit]
    return commit


def without_arguments(method, *names):
    """A fault: arguments of the client's method are not there."""
    def commit(_session, sender, unit):
        if sender == CLIENT and unit.is_a(method) and unit.method.arguments:
            unit.method.arguments = {key: value for key, value in unit.method.arguments.items()
                                     if key not in names}
            return [unit]
    return commit


def without_headers(sender, *names):
    """A fault: headers of messages from one side are not there."""
    def commit(_session, from_whom, unit):
        if from_whom == sender and unit.properties is not None and unit.properties.headers:
            for name in names:
                unit.properties.headers.pop(name, None)
            return [unit]
    return commit


def declare(row, name, commit, *tests):
    """Declares a fault made by one of the functions above."""
    fault(row, name, *tests)(commit)


# Methods, in the order of the page.

@fault("connection.start, start-ok", "AMQPLAIN and EXTERNAL are not offered",
       "test_amqplain_logs_in",
       "test_external_logs_in_as_the_user_whom_the_certificate_names")
def _(_session, _sender, unit):
    if unit.is_a(Connection.Start):
        unit.method.mechanisms = "PLAIN"
        return [unit]


@fault("connection.start, start-ok", "an unknown mechanism lets in",
       "test_an_unknown_mechanism_is_refused")
def _(_session, _sender, unit):
    if unit.is_a(Connection.StartOk) and unit.method.mechanism == "MAGIC":
        unit.method.mechanism, unit.method.response = "PLAIN", "\0guest\0guest"
        return [unit]


declare("connection.secure, secure-ok", "what only a server says is ignored",
        ignoring(None, Connection.SecureOk, Queue.DeclareOk, Basic.Deliver, Basic.ConsumeOk))

declare("connection.tune, tune-ok", "the broker proposes other limits",
        changing(BROKER, Connection.Tune, channel_max=1023),
        "test_the_broker_proposes_rabbitmqs_limits")
declare("connection.tune, tune-ok", "the client's limits are ignored",
        changing(CLIENT, Connection.TuneOk, channel_max=1, frame_max=131072),
        "test_the_client_may_lower_limits_and_not_raise_them",
        "test_no_limit_means_that_of_the_broker")

declare("connection.open, open-ok", "every virtual host is there",
        changing(CLIENT, Connection.Open, virtual_host="/"))

declare("connection.close, close-ok", "close-ok is not sent",
        lambda _session, sender, unit:
        [] if sender == BROKER and unit.is_a(Connection.CloseOk) else None,
        "test_a_close_by_the_client_is_answered")


@fault("connection.close, close-ok", "what precedes a close in the same write is dropped",
       "test_what_precedes_a_close_is_carried_out")
def _(session, sender, unit):
    if sender == CLIENT:
        held = session.memory.setdefault("held", [])
        if unit.is_a(Basic.Publish):
            held.append(unit)
            return []
        session.memory["held"] = []
        return [unit] if unit.is_a(Connection.Close) else [*held, unit]


declare("connection.blocked, unblocked", "a client's blocked notice is ignored",
        ignoring(None, Connection.Blocked))
declare("connection.update-secret, update-secret-ok", "update-secret is not answered",
        ignoring(None, Connection.UpdateSecret))


@fault("channel.open, open-ok", "any channel may be opened, and again")
def _(session, sender, unit):
    if sender == CLIENT and unit.is_a(Channel.Open):
        channels = session.memory.setdefault("channels", set())
        if unit.channel in channels or len(channels) == 2:
            return session.answer(unit.channel, Channel.OpenOk())
        channels.add(unit.channel)


declare("channel.flow, flow-ok", "flow-ok says the opposite",
        ignoring(lambda method: Channel.FlowOk(not method.active), Channel.Flow))


@fault("channel.close, close-ok", "an error of a channel ends the connection")
def _(session, sender, unit):
    if sender == BROKER and unit.is_a(Channel.Close):
        error = unit.method
        return [method_unit(0, Connection.Close(error.reply_code, error.reply_text,
                                                error.class_id, error.method_id))]


declare("access.request (0-8)", "access.request is ignored",
        ignoring(None, Access.Request))
declare("exchange.declare, declare-ok", "exchange.declare does nothing",
        ignoring(lambda _: Exchange.DeclareOk(), Exchange.Declare,
                 unless=lambda method: method.passive))
declare("exchange.delete, delete-ok", "if-unused is ignored",
        changing(CLIENT, Exchange.Delete, if_unused=False),
        "test_deleting_a_bound_exchange_is_406_if_asked")


@fault("exchange.delete, delete-ok", "deleting what is missing is 404",
       "test_deleting_what_is_missing_succeeds")
def _(_session, sender, unit):
    if sender == CLIENT and unit.is_a(Exchange.Delete):
        return [method_unit(unit.channel, Exchange.Declare(
            exchange=unit.method.exchange, passive=True))]


declare("exchange.bind, bind-ok, unbind, unbind-ok", "exchange.unbind does nothing",
        ignoring(lambda _: Exchange.UnbindOk(), Exchange.Unbind),
        "test_bindings_between_exchanges_are_made_and_taken_back")
declare("exchange.bind, bind-ok, unbind, unbind-ok", "exchange.bind does nothing",
        ignoring(lambda _: Exchange.BindOk(), Exchange.Bind),
        "test_a_cycle_of_exchanges_delivers_once")

declare("queue.declare, declare-ok", "no messages are counted",
        changing(BROKER, Queue.DeclareOk, message_count=0),
        "test_a_queue_is_declared_found_purged_and_deleted")
declare("queue.declare, declare-ok", "all queues are declared alike",
        changing(CLIENT, Queue.Declare, durable=True, auto_delete=False, arguments={}),
        "test_redeclaring_a_queue_otherwise_is_406")


@fault("queue.declare, declare-ok", "names of the server's own are not reserved ones",
       "test_a_server_named_queue_gets_a_fresh_reserved_name")
def _(session, sender, unit):
    if sender == CLIENT and unit.is_a(Queue.Declare) and not unit.method.queue:
        session.memory["count"] = session.memory.get("count", 0) + 1
        unit.method.queue = f"test.{id(session)}.{session.memory['count']}"
        return [unit]


declare("queue.bind, bind-ok", "queue.bind does nothing",
        ignoring(lambda _: Queue.BindOk(), Queue.Bind))
declare("queue.unbind, unbind-ok", "queue.unbind does nothing",
        ignoring(lambda _: Queue.UnbindOk(), Queue.Unbind))


@fault("queue.purge, purge-ok", "a purge takes what is unacknowledged too")
def _(session, sender, unit):
    if sender == CLIENT and unit.is_a(Queue.Purge):
        session.memory["purged"] = True
    if sender == CLIENT and unit.is_a(Basic.Reject) and session.memory.get("purged"):
        unit.method.requeue = False
        return [unit]


declare("queue.delete, delete-ok", "if-unused and if-empty are ignored",
        changing(CLIENT, Queue.Delete, if_unused=False, if_empty=False))
declare("basic.qos, qos-ok", "basic.qos does nothing",
        ignoring(lambda _: Basic.QosOk(), Basic.Qos))


@fault("basic.consume, consume-ok", "two deliveries change places",
       "test_consuming_keeps_the_publishing_order")
def _(session, sender, unit):
    if sender == BROKER and unit.is_a(Basic.Deliver):
        if unit.method.delivery_tag == 7:
            session.memory["held"] = unit
            return []
        if held := session.memory.pop("held", None):
            return [unit, held]


declare("basic.consume, consume-ok", "exclusive is ignored",
        changing(CLIENT, Basic.Consume, exclusive=False),
        "test_an_exclusive_consumer_keeps_others_out")


@fault("basic.consume, consume-ok", "no-local is obeyed", "test_no_local_is_ignored")
def _(session, sender, unit):
    if unit.is_a(Basic.Consume):
        session.memory["no-local"] = unit.method.no_local
    if unit.is_a(Basic.Deliver) and session.memory["no-local"]:
        return []


declare("basic.cancel, cancel-ok", "basic.cancel does nothing",
        ignoring(lambda method: Basic.CancelOk(method.consumer_tag), Basic.Cancel),
        "test_a_cancelled_consumer_gets_nothing_more_and_others_do")
declare("basic.cancel, cancel-ok", "an unknown consumer is 404",
        ignoring(lambda _: Channel.Close(404, "NOT_FOUND", 60, 30), Basic.Cancel),
        "test_cancelling_an_unknown_consumer_is_answered")


@fault("basic.publish", "a body loses its last byte",
       "test_pika_publishes_consumes_and_acknowledges")
def _(_session, sender, unit):
    if sender == CLIENT and unit.is_a(Basic.Publish):
        unit.body = unit.body[:-1]
        return [unit]


declare("basic.publish", "immediate is ignored",
        changing(CLIENT, Basic.Publish, immediate=False),
        "test_immediate_is_not_implemented")
declare("basic.return", "mandatory is ignored",
        changing(CLIENT, Basic.Publish, mandatory=False))
declare("basic.deliver", "the client's frame-max is ignored",
        changing(CLIENT, Connection.TuneOk, frame_max=131072))
declare("basic.get, get-ok, get-empty", "get-ok counts no messages",
        changing(BROKER, Basic.GetOk, message_count=0))
declare("basic.ack", "basic.ack does nothing", ignoring(None, Basic.Ack))
declare("basic.ack", "multiple is ignored", changing(CLIENT, Basic.Ack, multiple=False),
        "test_ack_multiple_takes_all_before_it")
declare("basic.reject", "a rejected message is always requeued",
        changing(CLIENT, Basic.Reject, requeue=True))
declare("basic.nack", "basic.nack does nothing", ignoring(None, Basic.Nack))
declare("basic.nack", "multiple is ignored", changing(CLIENT, Basic.Nack, multiple=False))
declare("basic.recover, recover-ok, recover-async", "the redelivered flag is cleared",
        changing(BROKER, Basic.Deliver, redelivered=False))
declare("basic.recover, recover-ok, recover-async", "basic.recover does nothing",
        ignoring(lambda _: Basic.RecoverOk(), Basic.Recover))

declare("tx.select, select-ok", "tx and confirm methods are always answered",
        ignoring(lambda method: {Tx.Select: Tx.SelectOk, Tx.Commit: Tx.CommitOk,
                                 Tx.Rollback: Tx.RollbackOk,
                                 Confirm.Select: Confirm.SelectOk}[type(method)](),
                 Tx.Select, Tx.Commit, Tx.Rollback, Confirm.Select))
declare("tx.commit, commit-ok", "a transaction takes effect before its commit",
        ignoring(lambda method: {Tx.Select: Tx.SelectOk,
                                 Tx.Commit: Tx.CommitOk}[type(method)](), Tx.Select, Tx.Commit))


@fault("tx.rollback, rollback-ok", "a rollback commits")
def _(session, _sender, unit):
    if unit.is_a(Tx.Rollback):
        session.memory["rolls back"] = True
        return [method_unit(unit.channel, Tx.Commit())]
    if unit.is_a(Tx.CommitOk) and session.memory.pop("rolls back", False):
        return [method_unit(unit.channel, Tx.RollbackOk())]


@fault("confirm.select, select-ok", "a confirm comes twice",
       "test_confirms_come_once_for_every_message")
def _(_session, sender, unit):
    if sender == BROKER and unit.is_a(Basic.Ack):
        return [unit, unit]


@fault("confirm.select, select-ok", "confirms are one ahead",
       "test_numbers_count_from_confirm_select")
def _(_session, sender, unit):
    if sender == BROKER and unit.is_a(Basic.Ack):
        unit.method.delivery_tag += 1
        return [unit]


# Extensions, in the order of the page.

@fault("server capabilities", "a capability is missing")
def _(_session, _sender, unit):
    if unit.is_a(Connection.Start):
        del unit.method.server_properties["capabilities"]["direct_reply_to"]
        return [unit]


def _understands_nothing(_session, sender, unit):
    if unit.is_a(Connection.StartOk):
        unit.method.client_properties = {}
        return [unit]


declare("authentication_failure_close", "the client's capabilities are ignored",
        _understands_nothing)
declare("consumer cancel notification", "basic.cancel is not sent",
        lambda _session, sender, unit:
        [] if sender == BROKER and unit.is_a(Basic.Cancel) else None)
declare("consumer priorities", "x-priority is ignored",
        without_arguments(Basic.Consume, "x-priority"))
declare("single active consumer", "x-single-active-consumer is ignored",
        without_arguments(Queue.Declare, "x-single-active-consumer"))
declare("priority queues", "x-max-priority is ignored",
        without_arguments(Queue.Declare, "x-max-priority"))
declare("x-queue-type classic, quorum", "x-queue-type is ignored",
        without_arguments(Queue.Declare, "x-queue-type"))
declare("x-queue-type stream", "x-queue-type is ignored",
        without_arguments(Queue.Declare, "x-queue-type"))
declare("x-delivery-limit", "there is no delivery limit",
        without_arguments(Queue.Declare, "x-delivery-limit", "x-queue-type"))
declare("message and queue TTL", "x-message-ttl and x-expires are ignored",
        without_arguments(Queue.Declare, "x-message-ttl", "x-expires"))
declare("x-max-length, x-overflow", "x-max-length is ignored",
        without_arguments(Queue.Declare, "x-max-length"))
declare("x-max-length, x-overflow", "x-overflow is ignored",
        without_arguments(Queue.Declare, "x-overflow"),
        "test_reject_publish_refuses_the_newest_messages")
declare("dead letters, x-death", "x-death is missing", without_headers(BROKER, "x-death"))
declare("alternate exchange", "alternate-exchange is ignored",
        without_arguments(Exchange.Declare, "alternate-exchange"))
declare("CC and BCC", "CC is ignored", without_headers(CLIENT, "CC"))


@fault("CC and BCC", "BCC is shown")
def _(_session, _sender, unit):
    if unit.is_a(Basic.GetOk):
        unit.properties.headers["BCC"] = ["shown"]
        return [unit]


@fault("direct reply-to", "replies lose their way")
def _(_session, sender, unit):
    if (sender == CLIENT and unit.is_a(Basic.Publish)
            and unit.method.routing_key.startswith(DIRECT_REPLY_TO)):
        return []


@fault("x-consistent-hash (plugin)", "weights are ignored",
       "test_consistent_hashing_spreads_by_weight_and_keeps_keys_together")
def _(_session, sender, unit):
    if sender == CLIENT and unit.is_a(Queue.Bind):
        unit.method.routing_key = "1"
        return [unit]


declare("x-consistent-hash (plugin)", "hash-header and hash-property are ignored",
        without_arguments(Exchange.Declare, "hash-header", "hash-property"),
        "test_consistent_hashing_by_header_or_property")
declare("x-message-deduplication (community plugin)", "x-deduplication-header is ignored",
        without_headers(CLIENT, "x-deduplication-header"))


@fault("user-id", "user-id is not looked at")
def _(_session, _sender, unit):
    if unit.is_a(Basic.Publish):
        unit.properties = BasicProperties(delivery_mode=unit.properties.delivery_mode)
        return [unit]
