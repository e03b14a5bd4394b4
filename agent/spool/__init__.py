"""The spool: spans on disk that the agent has accepted and not yet delivered, and dead letters.

One SQLite file holds four tables (`tables`): `batches` of spans, `rings` with how far each ring was read,
`senders` with the cursor of each, and `dead_letters`. A batch is JSON spans joined by SEPARATOR, without the
brackets of a list: batches are joined into one message without decoding them. A cursor is the id of the last
batch that a sender has passed.

Invariants:

- What `Spool.put` returned for is flushed to disk. Only after that a ring's writer is told that its room is
  free, and an HTTP client gets 202.
- Batches and the positions of the rings that they came from are written in one transaction: a kill at any
  moment neither loses nor repeats a span of a ring.
- A batch is deleted only when all registered senders have passed it, or when it is older than
  agent.spool.max_age_s. Cursors are written in the transaction that deletes what they have passed.
- Ids of batches rise, and none is used twice, also when all batches are deleted. So no cursor is ahead of a
  batch that comes later.
- `Spool.totals` is what the rows on disk add up to. Only a `Transaction` changes it, and only when it is
  committed. All writers (put, senders' cursors, dead letters, expiry, recovery) go through `Spool.transact`.
- Undelivered spans take at most agent.spool.max_bytes, dead letters at most a tenth of that in addition.
- A full disk never keeps the spool from deleting: the rollback journal has its room reserved, and a
  transaction deletes no more rows than fit into it (`portions`).

What survives which event:

- SIGKILL of the agent, power loss: nothing is lost. What was delivered since the last save is sent again.
- Full disk, or the limit is reached: `put` raises SpoolFull, so rings stay unread and HTTP clients get 429.
  Delivery goes on.
- The file is removed or replaced: it is written again from the open file. If it cannot be, `put` raises
  SpoolFull.
- The file is damaged or cut off: it is moved aside and a new one is started. Its spans count as dropped until
  `kaspan agent spool recover` puts them back.
- A second agent on the same path: it does not start, because the first one holds a lock file (`lock`).

Modules, from the file up: `damage`, `lock`, `database` (one file that survives this), `tables`, `pages`
(reads a damaged file without SQLite), `portions`, `transaction`, `spool`, `dead_letters`, `expiry`,
`recovery`, `control_socket` (how commands reach the spool of a running agent). `Database` holds one
connection and one lock; any thread may call any method of Spool.
"""
