package limpet

import (
	"time"
	"unsafe"

	"github.com/limpet-go/limpet/internal/budget"
	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/internal/lend"
	"github.com/limpet-go/limpet/wire"
)

// Options.Memory is shared among the delivery queues of a client. A queue with Block holds
// its window: what waits and what the server may still send. Any other holds what waits, and
// gives way when there is no room for what others receive.

// queueLimits are how much may wait in a queue: Delivery.Buffer and Delivery.Bytes or, with Block,
// as much of them as the window has room for.
type queueLimits struct{ messages, bytes int }

const (
	messageCost = int64(unsafe.Sizeof(Message{})) // of a waiting message, beside its content
	blockCost   = messageCost * fifo.BlockLen
	leastWindow = blockCost + 2*messageCost
	lossCost    = int64(unsafe.Sizeof(Loss{})) // of a gap or a reset that waits, beside its place
)

// count counts m as waiting; mu is held.
func (q *queue) count(m *Message) {
	q.messages++
	q.bytes += len(m.Payload)
	q.texts += budget.TextsCost(m.Type, m.Position.Tag, m.Header)
}

// uncount follows when m waits no longer; mu is held.
func (q *queue) uncount(m *Message) {
	q.messages--
	q.bytes -= len(m.Payload)
	q.texts -= budget.TextsCost(m.Type, m.Position.Tag, m.Header)
}

// uncountDropped follows when m waits no longer, and no consumer gets it; mu is held.
func (q *queue) uncountDropped(m *Message) {
	q.uncount(m)
	if q.lent != nil {
		q.lent.Drop(m.number, len(m.Payload))
	}
}

// uncountTaken follows when ms wait no longer, and returns how many of them are losses; mu is
// held.
func (q *queue) uncountTaken(ms []Message) (losses int) {
	if q.waits() == 0 {
		losses = len(ms) - q.messages
		q.messages, q.bytes, q.texts = 0, 0, 0
		return losses
	}
	for i := range ms {
		if ms[i].Loss != nil {
			losses++
		} else {
			q.uncount(&ms[i])
		}
	}
	return losses
}

// content returns what the content of what waits costs, beside its places; mu is held.
func (q *queue) content() int64 {
	n := q.texts + int64(q.waits()-q.messages)*lossCost
	if q.lent != nil {
		return n + q.lent.Held()
	}
	return n + budget.PayloadCost(int64(q.bytes))
}

// keepPayload makes the payload of ev, message number, one that may wait. It is copied once; mu
// is held.
func (q *queue) keepPayload(number uint64, ev *wire.Event) []byte {
	if !lend.Fits(len(ev.Message.Payload)) {
		ev.OwnPayload()
	}
	return q.lent.Copy(number, ev.Message.Payload)
}

// lendTo puts the payloads of messages that were taken into batch. Without a batch they get
// memory of their own; mu is held.
func (q *queue) lendTo(batch *lend.Batch, ms []Message) {
	for i := range ms {
		m := &ms[i]
		if batch != nil {
			q.lent.Take(batch, m.number, m.Payload)
			continue
		}
		m.Payload = q.lent.Release(m.number, m.Payload)
	}
}

// cost returns what the content of the queue costs; mu is held.
func (q *queue) cost() int64 { return q.content() + q.items.Memory() + q.keyed.Memory() }

// needed returns what the content would cost in no more memory than it needs; mu is held.
func (q *queue) needed() int64 {
	return q.content() + q.items.Memory() + q.keyed.Needed()
}

// useSpare reports whether there is memory for a message that came, without a look at what waits:
// it uses up what an earlier reserve has left; mu is held.
func (q *queue) useSpare(events []wire.Event) bool {
	m := &events[0].Message
	if len(events) > 1 || q.spare == 0 || m.Header != nil || events[0].Kind != wire.EventData || q.items.MemoryFor(2) > q.spareBlocks {
		return false
	}
	q.spare = max(0, q.spare-budget.PayloadCost(int64(len(m.Payload)))-1-budget.TextsCost(m.Type, events[0].Position.Tag, nil))
	return q.spare > 0
}

// setSpare follows when an account holds free bytes more than what waits and came needs; mu is held.
func (q *queue) setSpare(free int64, came int) {
	if q.spare = 0; q.delivery.Overflow != Block && q.delivery.Overflow != Latest && q.lent == nil {
		q.spare, q.spareBlocks = free, q.items.MemoryFor(came+1)
	}
}

// reserve gets memory for messages or a loss that came; mu is held, and released meanwhile if others
// must give way. If there is no more memory, what does not fit is dropped, but not with Block.
func (q *queue) reserve(events []wire.Event, keys []string) {
	var sum contentSum
	for i := range events {
		m := &events[i].Message
		sum.size += len(m.Payload)
		if lend.Fits(len(m.Payload)) {
			sum.inBlocks += len(m.Payload)
		}
		sum.texts += budget.TextsCost(m.Type, events[i].Position.Tag, m.Header)
	}
	q.tight = false
	if q.delivery.Overflow == Block && sum.texts == 0 && q.used.Bytes+uint64(sum.size) <= q.granted.Bytes {
		return // the window has room for it
	}
	missing := q.missingFor(events, keys, &sum)
	if missing <= 0 {
		q.setSpare(-missing, len(events))
		return
	}
	more := q.memory.Share() / 4 // not each time
	if missing += more; q.account.TryTake(missing, q.memory.Limit()) {
		q.setSpare(more, len(events))
		return
	}
	q.spare = 0
	q.mu.Unlock()
	q.memory.MakeRoom(missing)
	q.mu.Lock()
	missing = max(missing, q.missingFor(events, keys, &sum)) // if this queue gave way, what comes may need a block more
	if q.tight = !q.account.TryTake(missing, q.memory.Limit()); q.tight && q.delivery.Overflow != Block {
		q.account.Set(max(q.account.Held(), q.cost()))
		q.account.TakeRest()
	}
}

// neededWithOne returns what the queue would need with the message ev; mu is held.
func (q *queue) neededWithOne(ev *wire.Event) int64 {
	m := &ev.Message
	n := q.content() + budget.TextsCost(m.Type, ev.Position.Tag, m.Header) + q.items.MemoryFor(1)
	if q.lent != nil {
		return n + q.lent.CostOf(len(m.Payload))
	}
	return n + budget.PayloadCost(int64(q.bytes+len(m.Payload))) - budget.PayloadCost(int64(q.bytes))
}

// contentSum is the content of several messages.
type contentSum struct {
	size     int   // of payloads, in bytes
	inBlocks int   // of it, if they are lent
	texts    int64 // what their texts cost
}

// missingFor returns what the queue would need for messages or a loss that came beyond what its
// account holds; mu is held.
func (q *queue) missingFor(events []wire.Event, keys []string, sum *contentSum) int64 {
	n := q.neededWith(len(events), sum) - q.account.Held()
	if n > 0 && q.delivery.Overflow == Latest { // most may take places that there are
		n = q.neededWith(q.newKeys(events, keys), sum) - q.account.Held()
	}
	return n
}

// neededWith returns what the queue would need with messages that came; mu is held.
func (q *queue) neededWith(messages int, sum *contentSum) int64 {
	n := q.content() + lossCost + sum.texts
	if q.lent != nil {
		n += int64(sum.size-sum.inBlocks) + q.lent.MostFor(sum.inBlocks)
	} else {
		n += budget.PayloadCost(int64(sum.size))
	}
	switch q.delivery.Overflow {
	case Block:
		return n + q.items.MemoryFor(messages+1) + creditCost(q.unspent(messages, sum.size)) // a loss may come with them
	case Latest:
		return n + q.keyed.MemoryFor(messages)
	}
	return n + q.items.MemoryFor(messages+1)
}

// newKeys returns how many of the events need a place of their own, with Latest: no message
// with their key waits; mu is held.
func (q *queue) newKeys(events []wire.Event, keys []string) (n int) {
	for i := range events {
		if events[i].Kind != wire.EventData || q.keyed.Find(q.keyOf(&events[i], keys, i)) == 0 {
			n++
		}
	}
	return n
}

// overMemory reports whether a message must go because there is no memory; mu is held.
func (q *queue) overMemory() bool { return q.tight && q.messages > 0 && q.needed() > q.account.Held() }

// giveBack gives back memory that is not needed after consumers took messages; mu is held.
func (q *queue) giveBack() {
	if q.delivery.Overflow == Block {
		if q.account.Held() > q.window {
			q.holdWindow()
		}
		return
	}
	share := q.memory.Share()
	if n := q.keyed.Memory(); n > share/4 && n > 2*q.keyed.Needed() {
		q.keyed.Compact()
	}
	cost := q.cost()
	if held := q.account.Held(); held > cost+share/2 {
		q.account.Set(cost + share/4)
		q.spare = 0
	}
}

// holdCost takes the memory of what waits where reserve did not expect it: several losses
// between the messages of one read; mu is held.
func (q *queue) holdCost() {
	if cost := q.cost(); cost > q.account.Held() {
		q.account.Set(cost)
		q.spare = 0
	}
}

// holdAccepted takes the memory of what was accepted; mu is held.
func (q *queue) holdAccepted() {
	switch q.delivery.Overflow {
	case Block:
		if q.tight || q.used.Bytes > q.granted.Bytes || q.account.Held() != q.window || q.waits() > q.messages {
			q.holdWindow()
		}
	case Latest:
		q.giveBack()
		q.holdCost()
	default:
		if q.tight {
			q.giveBack()
		}
		q.holdCost()
	}
}

// GiveWay implements budget.Giver: it drops messages as the overflow policy says.
func (q *queue) GiveWay(bytes int64) {
	now := time.Now()
	q.mu.Lock()
	before := q.dropped
	target := q.account.Held() - bytes
	for q.needed() > target && q.messages > 0 {
		q.dropOne(&now)
	}
	if q.cost() > target {
		q.keyed.Compact()
	}
	q.account.Set(q.cost())
	q.spare = 0
	dropped := q.dropsSince(before)
	report := q.tracker.Reports() > 0 && q.reported()
	q.mu.Unlock()
	if dropped > 0 {
		q.owner.messagesDropped(dropped)
	}
	if report {
		q.reportProcessed(true)
	}
}

// dropReports is what MessagesDropped has not reported yet.
type dropReports struct {
	messages uint64
	last     time.Time   // report
	timer    *time.Timer // of reportDrops; nil: not running
}

// dropsSince returns how many drops to report, when q.dropped was before; mu is held.
func (q *queue) dropsSince(before uint64) uint64 {
	if q.dropped == before || q.finishing {
		return 0
	}
	return q.dropsToReport(q.dropped-before, time.Now())
}

// dropsToReport counts n messages that the overflow policy dropped, and returns how many to
// report: 0 within a second of the last report, after which reportDrops follows; mu is held.
func (q *queue) dropsToReport(n uint64, now time.Time) uint64 {
	q.unreported.messages += n
	if wait := time.Second - now.Sub(q.unreported.last); wait > 0 {
		if q.unreported.timer == nil {
			q.unreported.timer = time.AfterFunc(wait, q.reportDrops)
		}
		return 0
	}
	return q.takeDrops(now)
}

// takeDrops returns how many drops are not reported yet: the caller reports them; mu is held.
func (q *queue) takeDrops(now time.Time) uint64 {
	if q.unreported.timer != nil {
		q.unreported.timer.Stop()
	}
	n := q.unreported.messages
	q.unreported = dropReports{last: now}
	return n
}

// reportDrops reports what was dropped within a second of the last report.
func (q *queue) reportDrops() {
	q.mu.Lock()
	n := q.takeDrops(time.Now())
	q.mu.Unlock()
	if n > 0 {
		q.owner.messagesDropped(n)
	}
}

// forsake gives back the memory of a queue that is never used.
func (q *queue) forsake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.account.Close()
}

// fullWindow is the window that Delivery.Buffer and Delivery.Bytes need.
func (q *queue) fullWindow() int64 {
	return int64(q.delivery.Buffer)*messageCost + budget.PayloadCost(int64(q.delivery.Bytes)) + blockCost
}

// openWindow begins a connection, with Block: with the full window while there is much
// memory, later with a part of what is left, and always with a share; mu is held.
func (q *queue) openWindow() {
	others := q.memory.Used() - q.account.Held()
	q.setWindow(max(q.memory.Share(), (q.memory.Limit()/2-others)/16, leastWindow))
}

// adjustWindow doubles the window of a consumer that keeps up, if there is memory, and
// halves one when memory is scarce; mu is held.
func (q *queue) adjustWindow() {
	keepsUp := q.messages <= q.mayWait.messages/4 && q.bytes <= q.mayWait.bytes/4
	more := min(q.window, q.fullWindow()-q.window)
	switch {
	case keepsUp && more > 0 && q.account.TryTake(more, q.memory.Limit()/2):
		q.setWindow(q.window + more)
	case q.memory.Scarce() && q.window > q.memory.Share():
		q.setWindow(max(q.memory.Share(), q.window/2, leastWindow))
	}
}

// setWindow sets the window: but for a block that is not full, half of it is for messages
// and half for their content; mu is held.
func (q *queue) setWindow(bytes int64) {
	full := q.fullWindow()
	q.window = min(bytes, full)
	q.mayWait = queueLimits{q.delivery.Buffer, q.delivery.Bytes}
	if bytes < full {
		bytes -= blockCost
		messages := min(max(1, bytes/2/messageCost), int64(q.delivery.Buffer))
		q.mayWait.messages = int(messages)
		q.mayWait.bytes = int(min(max(1, (bytes-messages*messageCost)*8/9), int64(q.delivery.Bytes)))
	}
}

// holdWindow takes the memory of the window, or of what waits and may still come, if that is
// more; mu is held.
func (q *queue) holdWindow() {
	if n := max(q.window, q.inWindow()); n != q.account.Held() {
		q.account.Set(n)
	}
}

// inWindow returns what waits and may still come costs; mu is held.
func (q *queue) inWindow() int64 { return q.cost() + creditCost(q.unspent(0, 0)) }

// unspent returns the credit that the server has left after messages more messages, of bytes
// together; mu is held.
func (q *queue) unspent(messages, bytes int) wire.Credit {
	used := wire.Credit{N: q.used.N + uint64(messages), Bytes: q.used.Bytes + uint64(bytes)}
	left := wire.Credit{N: q.granted.N - min(used.N, q.granted.N), Bytes: q.granted.Bytes - min(used.Bytes, q.granted.Bytes)}
	if left.N == 0 {
		left.Bytes = 0
	}
	return left
}

// creditCost returns what messages for which there is credit may cost.
func creditCost(c wire.Credit) int64 {
	return int64(c.N)*messageCost + budget.PayloadCost(int64(c.Bytes))
}

// roomForWindow makes others give way to a window, before a connection begins; mu is not
// held.
func (q *queue) roomForWindow() {
	if q.delivery.Overflow == Block {
		q.memory.MakeRoom(max(q.memory.Share(), leastWindow))
	}
}

// allowance returns the credit that fits the free room; mu is held.
func (q *queue) allowance() wire.Credit {
	if q.delivery.Overflow != Block {
		return wire.Credit{N: q.used.N + uint64(q.delivery.Buffer), Bytes: q.used.Bytes + uint64(q.delivery.Bytes)}
	}
	return wire.Credit{
		N:     q.used.N + uint64(max(0, q.roomForMessages())),
		Bytes: q.used.Bytes + uint64(max(0, q.mayWait.bytes-q.bytes)),
	}
}

// roomForMessages returns how many more messages may wait, with Block; mu is held.
func (q *queue) roomForMessages() int {
	room := q.mayWait.messages - q.messages - q.held
	if q.manualAck {
		room = min(room, q.delivery.Buffer-q.messages-q.tracker.Window())
	}
	return room
}

// roomToReport reports whether enough room is free for another grant: half of
// the limits, or any room if the server has used its credit and nothing waits.
// After it has returned true it returns false until grant is called; mu is held.
func (q *queue) roomToReport() bool {
	if q.roomReported || q.finishing {
		return false
	}
	c := q.allowance()
	step := wire.Credit{N: uint64(max(1, q.mayWait.messages/2)), Bytes: uint64(max(1, q.mayWait.bytes/2))}
	if q.messages == 0 {
		// The consumer waits, and with ManualAck half of the room may never come free.
		if q.used.N >= q.granted.N {
			step.N = 1
		}
		if q.used.Bytes >= q.granted.Bytes {
			step.Bytes = 1
		}
	}
	if c.N < q.granted.N+step.N && c.Bytes < q.granted.Bytes+step.Bytes {
		return false
	}
	q.roomReported = true
	return true
}

// owesGrant reports whether consumers have made room, and the server has not got credit for it.
func (q *queue) owesGrant() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.roomReported
}

// grant returns the credit that the server should have now.
func (q *queue) grant() wire.Credit {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.roomReported = false
	if q.delivery.Overflow == Block {
		q.adjustWindow()
		defer q.holdWindow()
	}
	c := q.allowance()
	q.granted = wire.Credit{N: max(c.N, q.granted.N), Bytes: max(c.Bytes, q.granted.Bytes)}
	return q.granted
}

// useCredit counts a message of size bytes and reports whether the server had
// no credit for it. The last message may exceed the bytes, and one without
// payload needs none; mu is held.
func (q *queue) useCredit(size int) (exceeded bool) {
	q.used.N++
	exceeded = q.delivery.Overflow == Block && (q.used.N > q.granted.N || size > 0 && q.used.Bytes > q.granted.Bytes)
	q.used.Bytes += uint64(size)
	return exceeded
}
