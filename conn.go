package limpet

import (
	"time"

	"github.com/limpet-go/limpet/internal/inbox"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/tasks"
)

const (
	closeTimeout = time.Second      // of the close handshake, then the socket is closed
	stallTimeout = 15 * time.Second // a write must move bytes within it
)

// conn is one connection as the loop sees it.
type conn struct {
	*socket.Conn
	unchosen []string // the subprotocols of the dialect, if the server chose none of them
	gen      uint64
	slots    *tasks.Slots // batches of events that the reader has posted and the loop has not applied
	refusal  int          // with the fallback: the status that refused the upgrade; 0: none did in this attempt
}

func newConn() *conn { return &conn{slots: tasks.NewSlots()} }

// abandon closes without a close frame, except for the answer to the peer's.
func (c *conn) abandon() { c.Close(0, "", closeFrameTimeout) }

// writer makes one write, on a goroutine of its own.
type writer struct {
	conn     *conn
	inbox    *inbox.Inbox[event]
	counters *counters
}

// write writes the first n frames of u that are not written, and posts how it went.
func (w writer) write(u unwritten, n int) {
	list := u.frames.List[u.from : u.from+n]
	err := w.conn.Send(list)
	bytes := 0
	for _, f := range list {
		bytes += len(f.Data)
	}
	if err == nil {
		w.counters.bytesWritten.Add(uint64(bytes))
	}
	if u.from+n == len(u.frames.List) {
		u.frames.Reset()
		framesPool.Put(u.frames)
	}
	w.inbox.Post(wrote{w.conn, asCallersFault(err), u.through, bytes})
}
