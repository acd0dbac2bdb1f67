// Runs STOMP and MQTT over WebSockets in a page of Chromium: the page is at ISTHMUS_TEST_PAGE, which
// the broker lets in, and at ISTHMUS_TEST_STRANGER, which it does not. Its WebSockets are at the
// addresses in ISTHMUS_TEST_WS, separated by blanks, and its AMQP is at ISTHMUS_TEST_URL.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'

import amqplib from 'amqplib'
import { chromium } from 'playwright-core'

const { ISTHMUS_TEST_PAGE, ISTHMUS_TEST_STRANGER, ISTHMUS_TEST_URL, ISTHMUS_TEST_WS } = process.env
const profile = mkdtempSync(join(tmpdir(), 'isthmus-browser-'))
let browser, connection, channel

before(async () => {
  browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.ISTHMUS_CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  })
  connection = await amqplib.connect(ISTHMUS_TEST_URL)
  channel = await connection.createConfirmChannel()
})
after(async () => {
  await connection?.close()
  await browser?.close()
  rmSync(profile, { recursive: true, force: true })
})

/** The page at `address`, whose clients connect to `ws` and subscribe to `key`. */
async function open(address, ws, key) {
  const page = await browser.newPage()
  const query = new URLSearchParams({ stomp: ws, mqtt: ws, key })
  await page.goto(`${address}/page.html?${query}`)
  const shows = (name, text) => page.waitForFunction(
    ([id, expected]) => document.getElementById(id).textContent === expected, [name, text],
    { timeout: 10_000 })
  return { page, shows }
}

for (const ws of ISTHMUS_TEST_WS.split(' ')) {
  test(`a page shows what AMQP publishes, by ${ws}`, async () => {
    const key = `test.${randomUUID()}`
    const { page, shows } = await open(ISTHMUS_TEST_PAGE, ws, key)
    await Promise.all(['stomp', 'mqtt'].map((name) => shows(name, 'subscribed')))
    for (const text of ['grüße €', 'x'.repeat(100_000), 'last']) {
      channel.publish('amq.topic', key, Buffer.from(text))
      await channel.waitForConfirms()
      await Promise.all(['stomp', 'mqtt'].map((name) => shows(name, text)))
    }
    await page.close()
  })

  test(`a page of another origin is refused by ${ws}`, async () => {
    const { page, shows } = await open(ISTHMUS_TEST_STRANGER, ws, `test.${randomUUID()}`)
    const answers = []
    page.on('websocket', (socket) => answers.push(new Promise((resolve) => {
      socket.on('socketerror', resolve)
      socket.on('framereceived', () => resolve('let in'))
    })))
    await page.reload()
    await Promise.all([shows('stomp', 'closed 1006'), shows('mqtt', 'closed')])
    // Both ask, and may have asked again. One that the reload cut off is told nothing.
    const told = await Promise.all(
      answers.map((answer) => Promise.race([answer, setTimeout(3_000, 'nothing')])))
    const refused = told.filter((answer) => answer !== 'nothing')
    assert.ok(refused.length >= 2, `refused: ${told}`)
    for (const answer of refused) assert.match(answer, /403/)
    await page.close()
  })
}
