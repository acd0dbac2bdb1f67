// Runs amqplib, the usual AMQP 0-9-1 client of Node.js, against the broker at ISTHMUS_TEST_URL,
// with the files ISTHMUS_TEST_CA, ISTHMUS_TEST_CERTIFICATE and ISTHMUS_TEST_KEY where it is TLS.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { after, before, beforeEach, afterEach, test } from 'node:test'

import amqplib from 'amqplib'

const url = process.env.ISTHMUS_TEST_URL
const file = (name) => process.env[name] && readFileSync(process.env[name])
const socketOptions = { timeout: 5000, ca: file('ISTHMUS_TEST_CA') && [file('ISTHMUS_TEST_CA')],
  cert: file('ISTHMUS_TEST_CERTIFICATE'), key: file('ISTHMUS_TEST_KEY') }
let connection, channel, queue

before(async () => { connection = await amqplib.connect(url, socketOptions) })
after(() => connection.close())

beforeEach(async () => {
  channel = await connection.createChannel()
  queue = (await channel.assertQueue(`test.${randomUUID()}`, { exclusive: true })).queue
})
afterEach(() => channel.close().catch(() => {}))

/** Collects `count` deliveries of a new consumer. */
function deliveries(count, options, onEach = () => {}) {
  return new Promise((resolve, reject) => {
    const received = []
    channel.consume(queue, (message) => {
      received.push(message)
      onEach(message)
      if (received.length === count) resolve(received)
    }, options).catch(reject)
  })
}

/** The error with which the broker closes a channel of its own for `act`. */
async function channelError(act) {
  const failing = await connection.createChannel()
  const closed = new Promise((resolve) => failing.once('error', resolve))
  await assert.rejects(act(failing))
  return closed
}

test('messages are consumed in order and acknowledged', async () => {
  for (let number = 0; number < 1000; number++) channel.sendToQueue(queue, Buffer.from(`${number}`))
  await channel.prefetch(50)
  const received = await deliveries(1000, {}, (message) => channel.ack(message))
  assert.deepEqual(received.map((message) => message.content.toString()),
    Array.from({ length: 1000 }, (_, number) => `${number}`))
  assert.ok(received.every((message) => !message.fields.redelivered))
  assert.equal((await channel.checkQueue(queue)).messageCount, 0)
})

test('confirms come for every message', async () => {
  const confirming = await connection.createConfirmChannel()
  for (let number = 0; number < 500; number++) {
    confirming.sendToQueue(queue, Buffer.from('x'), { persistent: true })
  }
  await confirming.waitForConfirms()
  await confirming.close()
  assert.equal((await channel.checkQueue(queue)).messageCount, 500)
})

test('a mandatory message without a queue is returned', async () => {
  const returned = new Promise((resolve) => channel.once('return', resolve))
  channel.publish('amq.direct', 'test.nobody', Buffer.from('back'), { mandatory: true })
  const message = await returned
  assert.equal(message.fields.replyCode, 312)
  assert.equal(message.content.toString(), 'back')
})

test('properties and headers survive', async () => {
  const headers = { text: 'é', number: 42, big: 2 ** 40, real: 0.5, yes: true, nothing: null,
    list: [1, 'two', { three: 3 }], table: { inner: 'x' }, bytes: Buffer.from([0, 255]) }
  channel.sendToQueue(queue, Buffer.alloc(0), { headers, contentType: 'text/plain',
    correlationId: 'c', replyTo: 'r', messageId: 'm', timestamp: 1700000000, type: 't',
    appId: 'a', priority: 3, expiration: '60000' })
  const [message] = await deliveries(1, { noAck: true })
  assert.equal(message.content.length, 0)
  assert.deepEqual(message.properties.headers, headers)
  const { correlationId, priority, expiration, timestamp } = message.properties
  assert.deepEqual([correlationId, priority, expiration, timestamp], ['c', 3, '60000', 1700000000])
})

test('a large body survives', async () => {
  const body = Buffer.alloc(3_000_000, 'isthmus')
  channel.sendToQueue(queue, body)
  const [message] = await deliveries(1, { noAck: true })
  assert.ok(message.content.equals(body))
})

test('a message that was given back is flagged', async () => {
  channel.sendToQueue(queue, Buffer.from('again'))
  const received = await deliveries(2, {}, (message) => {
    if (message.fields.redelivered) channel.ack(message)
    else channel.nack(message, false, true)
  })
  assert.deepEqual(received.map((message) => message.fields.redelivered), [false, true])
})

test('topics route by pattern', async () => {
  const exchange = `${queue}.topic`
  await channel.assertExchange(exchange, 'topic', { autoDelete: true })
  await channel.bindQueue(queue, exchange, 'order.*.eu')
  for (const key of ['order.new.eu', 'order.new.us', 'order.eu', 'order.paid.eu']) {
    channel.publish(exchange, key, Buffer.from(key))
  }
  const received = await deliveries(2, { noAck: true })
  assert.deepEqual(received.map((message) => message.fields.routingKey),
    ['order.new.eu', 'order.paid.eu'])
})

test('request and reply over a queue of the client', async () => {
  const replies = (await channel.assertQueue('', { exclusive: true })).queue
  await channel.consume(queue, (request) => {
    channel.sendToQueue(request.properties.replyTo, Buffer.from(`re: ${request.content}`),
      { correlationId: request.properties.correlationId })
  }, { noAck: true })
  const reply = new Promise((resolve) => channel.consume(replies, resolve, { noAck: true }))
  channel.sendToQueue(queue, Buffer.from('hello'), { replyTo: replies, correlationId: '7' })
  const message = await reply
  assert.equal(message.content.toString(), 're: hello')
  assert.equal(message.properties.correlationId, '7')
})

test('request and reply without a queue of the client', async () => {
  await channel.consume(queue, (request) => {
    channel.sendToQueue(request.properties.replyTo, Buffer.from(`re: ${request.content}`))
  }, { noAck: true })
  const reply = new Promise((resolve) =>
    channel.consume('amq.rabbitmq.reply-to', resolve, { noAck: true }))
  channel.sendToQueue(queue, Buffer.from('hello'), { replyTo: 'amq.rabbitmq.reply-to' })
  assert.equal((await reply).content.toString(), 're: hello')
})

test('priorities order a queue', async () => {
  const { queue } = await channel.assertQueue('', { exclusive: true, maxPriority: 9 })
  for (const priority of [1, 9, 5]) channel.sendToQueue(queue, Buffer.from(`${priority}`), { priority })
  const got = []
  for (let number = 0; number < 3; number++) {
    got.push((await channel.get(queue, { noAck: true })).content.toString())
  }
  assert.deepEqual(got, ['9', '5', '1'])
})

test('errors close the channel with their code', async () => {
  assert.equal((await channelError((failing) => failing.checkQueue('test.missing'))).code, 404)
  assert.equal((await channelError((failing) => failing.assertQueue(queue,
    { exclusive: true, messageTtl: 5 }))).code, 406)
})

test('a deleted queue cancels its consumers', async () => {
  const cancelled = new Promise((resolve) => channel.consume(queue, resolve))
  await channel.deleteQueue(queue)
  assert.equal(await cancelled, null)
})

test('a wrong password is refused', async () => {
  await assert.rejects(amqplib.connect(url.replace(':guest@', ':wrong@'), socketOptions), /403/)
})
