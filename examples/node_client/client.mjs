// A DIFS client for Node.js, written from docs/PROTOCOL.md.
//
//   node client.mjs ADDRESS "red apple" out.png

import { randomUUID } from "node:crypto"
import { writeFile } from "node:fs/promises"
import { decode, encode } from "@msgpack/msgpack"
import { Dealer } from "zeromq"

const PROTOCOL = "DIFS1"
const SILENCE_MS = 5000
// Leases, generations and large seeds exceed 2^53: as plain numbers they would lose digits.
const MSGPACK = { useBigInt64: true }

async function generate(socket, prompt) {
  const request = {
    type: "generate",
    request_id: randomUUID(),
    prompt,
    delivery: { mode: "inline", format: "png" },
  }
  await socket.send([PROTOCOL, encode(request, MSGPACK)])
  for (;;) {
    const [protocol, map, ...payloads] = await socket.receive()
    if (protocol.toString() !== PROTOCOL) throw new Error("the peer does not speak DIFS1")
    const message = decode(map, MSGPACK)
    switch (message.type) {
      case "result":
        return message.images.map((image) => ({ ...image, bytes: payloads[image.frame] }))
      case "error":
        throw new Error(`${message.code}: ${message.message}`)
    } // accepted, progress, beat, and whatever a later broker may say: not needed here
  }
}

const [address, prompt, path] = process.argv.slice(2)
if (path === undefined) {
  console.error('usage: node client.mjs ADDRESS "red apple" out.png')
  process.exit(1)
}
// While a request is open the broker sends beats, so silence means loss.
const socket = new Dealer({ receiveTimeout: SILENCE_MS, linger: 500 })
try {
  socket.connect(address)
  const [image] = await generate(socket, prompt)
  await writeFile(path, image.bytes)
  console.log(`${path}: ${image.width}x${image.height}, seed ${image.seed}`)
} catch (error) {
  console.error(error.code === "EAGAIN" ? `no service answers at ${address}` : error.message)
  process.exitCode = 1
} finally {
  socket.close()
}
