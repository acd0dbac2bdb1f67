// Runs MQTT.js, the usual MQTT client of Node.js and of browsers, against the broker whose plain
// listener is at ISTHMUS_TEST_MQTT and whose WebSockets are at ISTHMUS_TEST_MQTT_WS.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import mqtt from 'mqtt'

const urls = { TCP: process.env.ISTHMUS_TEST_MQTT, WebSocket: process.env.ISTHMUS_TEST_MQTT_WS }
const versions = { '3.1.1': 4, '5.0': 5 }
const patienceMs = 5000
const quietMs = 200

for (const [transport, url] of Object.entries(urls)) {
  for (const [name, protocolVersion] of Object.entries(versions)) {
    describe(`MQTT ${name} over ${transport}`, { concurrency: false }, () => suite(url, protocolVersion))
  }
}

function suite(url, protocolVersion) {
  const isV5 = protocolVersion === 5
  let topic, clients

  beforeEach(() => { topic = `test/${randomUUID()}`; clients = [] })
  afterEach(() => Promise.all(clients.map((client) => client.endAsync(true).catch(() => {}))))

  /** A client whose messages are collected from its first one on; it may not be connected yet. */
  function begin(options = {}) {
    const client = mqtt.connect(url, { protocolVersion, username: 'guest', password: 'guest',
      reconnectPeriod: 0, connectTimeout: patienceMs, ...options })
    client.came = []
    client.on('message', (topic, payload, packet) => client.came.push({ topic, payload, packet }))
    client.on('error', () => {})
    clients.push(client)
    return client
  }

  async function connect(options) {
    const client = begin(options)
    ;[client.connack] = await once(client, 'connect', { signal: AbortSignal.timeout(patienceMs) })
    return client
  }

  /** The options of a session that outlives its connection. */
  function lasting(clientId) {
    const properties = { sessionExpiryInterval: 60 }
    return { clientId, clean: false, ...(isV5 && { properties }) }
  }

  /** The payloads of the first `count` messages, once there are so many, and no more of them. */
  async function payloads(client, count) {
    const deadline = Date.now() + patienceMs
    while (client.came.length < count) {
      assert.ok(Date.now() < deadline, `${client.came.length} of ${count} messages came`)
      await sleep(5)
    }
    assert.equal(client.came.length, count)
    return client.came.map(({ payload }) => payload.toString())
  }

  const numbers = (count) => Array.from({ length: count }, (_, number) => `${number}`)

  for (const qos of [0, 1, 2]) {
    test(`messages of QoS ${qos} come once and in order`, async () => {
      const client = await connect()
      const [granted] = await client.subscribeAsync(`${topic}/+`, { qos })
      assert.equal(granted.qos, qos)
      await Promise.all(numbers(300).map((text) => client.publishAsync(`${topic}/x`, text, { qos })))
      assert.deepEqual(await payloads(client, 300), numbers(300))
      assert.ok(client.came.every(({ packet }) => packet.qos === qos && !packet.dup && !packet.retain))
      await client.unsubscribeAsync(`${topic}/+`)
      await client.publishAsync(`${topic}/x`, 'unheard', { qos })
      await sleep(quietMs)
      assert.equal(client.came.length, 300)
    })
  }

  test('a large payload survives', async () => {
    const client = await connect()
    const body = Buffer.alloc(3_000_000, 'isthmus')
    await client.subscribeAsync(topic, { qos: 1 })
    await client.publishAsync(topic, body, { qos: 1 })
    await payloads(client, 1)
    assert.ok(client.came[0].payload.equals(body))
  })

  test('a retained message comes to who subscribes later, until an empty one', async () => {
    const publisher = await connect()
    await publisher.publishAsync(topic, 'old', { qos: 1, retain: true })
    await publisher.publishAsync(topic, 'new', { qos: 1, retain: true })
    const early = await connect()
    await early.subscribeAsync(topic, { qos: 1 })
    assert.deepEqual(await payloads(early, 1), ['new'])
    assert.ok(early.came[0].packet.retain)
    await publisher.publishAsync(topic, '', { qos: 1, retain: true })
    const late = await connect()
    await late.subscribeAsync(topic, { qos: 1 })
    await sleep(quietMs)
    assert.deepEqual(late.came, [])
  })

  test('a will comes when the connection breaks, and not after a goodbye', async () => {
    const heir = await connect()
    await heir.subscribeAsync(`${topic}/#`, { qos: 2 })
    const will = (name) => ({ will: { topic: `${topic}/${name}`, payload: name, qos: 2, retain: false,
      ...(isV5 && { properties: { willDelayInterval: 0, contentType: 'text/plain' } }) } })
    const polite = await connect(will('polite'))
    await polite.endAsync()
    const broken = await connect(will('broken'))
    broken.stream.destroy()
    assert.deepEqual(await payloads(heir, 1), ['broken'])
    const { packet } = heir.came[0]
    assert.deepEqual([packet.qos, packet.properties?.contentType], [2, isV5 ? 'text/plain' : undefined])
  })

  test('what comes while a client is away waits for it', async () => {
    const options = lasting(topic.replace('test/', 'away-'))
    const first = await connect(options)
    assert.equal(first.connack.sessionPresent, false)
    await first.subscribeAsync({ [`${topic}/once`]: { qos: 2 }, [`${topic}/least`]: { qos: 1 } })
    await first.endAsync()
    const publisher = await connect()
    for (const text of numbers(20)) {
      await publisher.publishAsync(`${topic}/${text % 2 ? 'once' : 'least'}`, text, { qos: 2 })
    }
    const second = await connect(options)
    assert.equal(second.connack.sessionPresent, true)
    const came = await payloads(second, 20)
    const odd = (text) => text % 2
    assert.deepEqual(came.filter(odd), numbers(20).filter(odd))
    assert.deepEqual(came.filter((text) => !odd(text)), numbers(20).filter((text) => !odd(text)))
    await second.endAsync()
    await connect({ clientId: options.clientId, clean: true })
  })

  test('what was not acknowledged is sent again after the client has come back by itself', async () => {
    const subscriber = await connect()
    await subscriber.subscribeAsync(topic, { qos: 2 })
    const options = { ...lasting(topic.replace('test/', 'back-')), reconnectPeriod: 20 }
    const publisher = await connect(options)
    const sent = numbers(200).map((text) => publisher.publishAsync(topic, text, { qos: 2 }))
    publisher.stream.destroy()
    await Promise.all(sent)
    assert.deepEqual((await payloads(subscriber, 200)).sort(), numbers(200).sort())
    await publisher.endAsync()
    await connect({ clientId: options.clientId, clean: true })
  })

  test('another connection of the same client takes its session over', async () => {
    const options = lasting(topic.replace('test/', 'over-'))
    const first = await connect(options)
    const told = isV5 && once(first, 'disconnect', { signal: AbortSignal.timeout(patienceMs) })
    const closed = once(first, 'close', { signal: AbortSignal.timeout(patienceMs) })
    const second = await connect(options)
    assert.equal(second.connack.sessionPresent, true)
    await closed
    if (isV5) assert.equal((await told)[0].reasonCode, 0x8E)
    await second.endAsync()
    await connect({ clientId: options.clientId, clean: true })
  })

  test('members of a shared subscription share its messages', async () => {
    const members = [await connect(), await connect()]
    for (const member of members) await member.subscribeAsync(`$share/all/${topic}`, { qos: 1 })
    const publisher = await connect()
    await Promise.all(numbers(100).map((text) => publisher.publishAsync(topic, text, { qos: 1 })))
    const deadline = Date.now() + patienceMs
    const all = () => members.flatMap((member) => member.came.map(({ payload }) => `${payload}`))
    while (all().length < 100 && Date.now() < deadline) await sleep(5)
    assert.deepEqual(all().sort(), numbers(100).sort())
    assert.ok(members.every((member) => member.came.length > 0), 'one has had them all')
  })

  test('a wrong password is refused', async () => {
    const client = begin({ password: 'wrong' })
    const [error] = await once(client, 'error', { signal: AbortSignal.timeout(patienceMs) })
    assert.equal(error.code, isV5 ? 0x86 : 4)
  })

  if (!isV5) return

  test('properties survive', async () => {
    const client = await connect()
    const properties = { payloadFormatIndicator: true, responseTopic: `${topic}/reply`,
      correlationData: Buffer.from([0, 255]), contentType: 'text/plain', messageExpiryInterval: 60,
      userProperties: { one: 'é', many: ['1', '2'] } }
    await client.subscribeAsync(topic, { qos: 1, properties: { subscriptionIdentifier: 7 } })
    await client.publishAsync(topic, 'x', { qos: 1, properties })
    await payloads(client, 1)
    const { subscriptionIdentifier, messageExpiryInterval, ...came } = client.came[0].packet.properties
    assert.deepEqual([subscriptionIdentifier].flat(), [7])
    assert.ok(messageExpiryInterval === 60 || messageExpiryInterval === 59)
    delete properties.messageExpiryInterval
    assert.deepEqual({ ...came, userProperties: { ...came.userProperties } }, properties)
  })

  test('topic aliases stand for topics, both ways', async () => {
    const client = await connect({ autoAssignTopicAlias: true, properties: { topicAliasMaximum: 5 } })
    await client.subscribeAsync(`${topic}/#`, { qos: 1 })
    for (const text of numbers(60)) await client.publishAsync(`${topic}/${text % 20}`, text, { qos: 1 })
    assert.deepEqual(await payloads(client, 60), numbers(60))
    assert.deepEqual(client.came.map((each) => each.topic), numbers(60).map((n) => `${topic}/${n % 20}`))
  })

  test('a subscriber need not hear itself', async () => {
    const client = await connect()
    const other = await connect()
    await client.subscribeAsync(topic, { qos: 1, nl: true })
    await client.publishAsync(topic, 'mine', { qos: 1 })
    await other.publishAsync(topic, 'yours', { qos: 1 })
    assert.deepEqual(await payloads(client, 1), ['yours'])
  })
}
