// Runs @stomp/stompjs, the usual STOMP client of browsers, over WebSockets, against the listeners at
// ISTHMUS_TEST_ANY and ISTHMUS_TEST_HTTP of the broker whose AMQP is at ISTHMUS_TEST_URL.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'

import { Client, StompSocketState, Versions } from '@stomp/stompjs'
import amqplib from 'amqplib'
import { WebSocket } from 'ws'

Object.assign(global, { WebSocket })

const listeners = { any: process.env.ISTHMUS_TEST_ANY, http: process.env.ISTHMUS_TEST_HTTP }
const clients = []
after(() => Promise.all(clients.map((client) => client.deactivate())))

/** A client that is connected. */
function connect(brokerURL, options = {}) {
  return new Promise((resolve, reject) => {
    const client = new Client({ brokerURL, reconnectDelay: 0, heartbeatIncoming: 500,
      heartbeatOutgoing: 500, connectHeaders: { login: 'guest', passcode: 'guest' },
      onConnect: () => resolve(client),
      onStompError: (frame) => reject(new Error(frame.headers.message)),
      onWebSocketError: (error) => reject(new Error(error.message)), ...options })
    clients.push(client)
    client.activate()
  })
}

/** Collects `count` messages of a new subscription, which there is once this has resolved. */
async function subscribe(client, destination, count, onEach = () => {}, headers = {}) {
  let resolve
  const received = []
  const all = new Promise((done) => { resolve = done })
  const subscribed = new Promise((done) => client.watchForReceipt('subscribed', done))
  client.subscribe(destination, (message) => {
    received.push(message)
    onEach(message)
    if (received.length === count) resolve(received)
  }, { receipt: 'subscribed', ...headers })
  await subscribed
  return { received: all }
}

for (const [listener, url] of Object.entries(listeners)) {
  for (const [name, options] of Object.entries({
    text: {}, binary: { forceBinaryWSFrames: true }, pieces: { splitLargeFrames: true },
  })) {
    test(`messages pass both ways at ${listener} in ${name}`, async () => {
      const client = await connect(url, options)
      const destination = `/queue/test.${randomUUID()}`
      const bodies = ['one', 'grüße €', '', 'x'.repeat(100_000), 'a\0b', 'last']
      const { received } = await subscribe(client, destination, bodies.length,
        (message) => message.ack(), { ack: 'client-individual' })
      for (const body of bodies) client.publish({ destination, body })
      assert.deepEqual((await received).map((message) => message.body), bodies)
    })
  }

  test(`bytes that are no text pass at ${listener}`, async () => {
    const client = await connect(url)
    const destination = `/queue/test.${randomUUID()}`
    const { received } = await subscribe(client, destination, 2)
    const binaryBody = Uint8Array.from({ length: 100_000 }, (_, n) => n % 256)
    client.publish({ destination, binaryBody })
    client.publish({ destination, body: 'text' })
    const [bytes, text] = await received
    assert.deepEqual(bytes.binaryBody, binaryBody)
    assert.equal(text.body, 'text')
  })

  test(`what AMQP publishes comes at ${listener}`, async () => {
    const client = await connect(url)
    const key = `test.${randomUUID()}`
    const { received } = await subscribe(client, `/topic/${key}`, 1)
    const connection = await amqplib.connect(process.env.ISTHMUS_TEST_URL)
    const channel = await connection.createChannel()
    channel.publish('amq.topic', key, Buffer.from('from AMQP'), { headers: { shade: 'blue' } })
    const [message] = await received
    assert.deepEqual([message.body, message.headers.shade], ['from AMQP', 'blue'])
    await connection.close()
  })
}

test('every version is spoken that a client names', async () => {
  for (const version of ['1.0', '1.1', '1.2']) {
    const client = await connect(listeners.any, { stompVersions: new Versions([version]) })
    assert.equal(client.connectedVersion, version)
    assert.equal(client.webSocket.protocol, `v${version.replace('.', '')}.stomp`)
  }
})

test('heart-beats keep a quiet connection', async () => {
  const client = await connect(listeners.any)
  await new Promise((done) => setTimeout(done, 2500))
  assert.ok(client.connected)
  assert.equal(client.webSocket.readyState, StompSocketState.OPEN)
})

test('a wrong password is refused', async () => {
  const connectHeaders = { login: 'guest', passcode: 'wrong' }
  await assert.rejects(connect(listeners.any, { connectHeaders }), /refused/)
})
