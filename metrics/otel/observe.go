package limpetotel

import (
	"math"
	"slices"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

var phases = []limpet.Phase{limpet.Connecting, limpet.Handshaking, limpet.Ready, limpet.Waiting, limpet.Ended}

var transports = []limpet.Transport{limpet.TransportWebSocket, limpet.TransportHTTP}

// classes are the classes that a lost connection or a failed attempt has. They have
// a value from the beginning, so that the first failure shows as an increase.
var classes = []limpet.ErrorClass{
	limpet.ClassDNS, limpet.ClassDial, limpet.ClassTLS, limpet.ClassLocal, limpet.ClassTimeout, limpet.ClassHTTP, limpet.ClassProxy,
	limpet.ClassNotWebSocket, limpet.ClassAuth, limpet.ClassProtocol, limpet.ClassOverload, limpet.ClassSession, limpet.ClassNetwork,
	limpet.ClassUser, limpet.ClassOther,
}

// observe is the callback of a collection. Another collection may run at the same time. The
// SDK holds a lock of its own, so observe waits for nothing but the leaf lock.
func (m *Metrics) observe(o metric.Observer, i *instruments) {
	clients, servers := m.all()
	for _, c := range clients {
		newObserver(o, i, c.attribute()).client(c)
	}
	for name, s := range servers {
		newObserver(o, i, attribute.String("limpet.server", name)).server(s)
	}
}

// observer observes one client or server.
type observer struct {
	metric.Observer
	*instruments
	name     attribute.KeyValue
	nameOnly metric.MeasurementOption // no attribute but name
}

func newObserver(o metric.Observer, i *instruments, name attribute.KeyValue) observer {
	return observer{o, i, name, metric.WithAttributeSet(attribute.NewSet(name))}
}

func (o observer) client(c *client) {
	st, state := c.Stats(), c.State()
	for _, p := range phases {
		n := uint64(0)
		if p == state.Phase {
			n = 1
		}
		o.count(o.state, n, attribute.String("state", p.String()))
	}
	for _, t := range transports {
		n := uint64(0)
		if t == st.Transport {
			n = 1
		}
		o.count(o.transport, n, attribute.String("transport", string(t)))
	}
	o.count(o.attempts, st.Connections, attribute.String("result", "ok"))
	o.classes(o.attempts, "result", st.FailedAttempts)
	o.classes(o.disconnects, "error.type", st.Lost)
	o.count(o.resumes, st.Resumes, attribute.String("verdict", "resumed"))
	o.count(o.resumes, max(st.Connections, st.Resumes)-st.Resumes, attribute.String("verdict", "fresh"))
	o.count(o.outages, st.Outages)
	o.seconds(o.unavailable, st.OutageTime)
	o.seconds(o.outage, st.Outage)
	o.seconds(o.pingRTT, st.PingRTT)
	o.seconds(o.silence, st.Silence)
	o.ObserveFloat64(o.pace, st.SendPace, o.nameOnly)
	var uptime, nextAttempt time.Duration
	if !st.ConnectedSince.IsZero() {
		uptime = time.Since(st.ConnectedSince)
	}
	if state.Phase == limpet.Waiting {
		nextAttempt = max(0, time.Until(state.NextAttempt))
	}
	o.seconds(o.uptime, uptime)
	o.seconds(o.nextAttempt, nextAttempt)

	o.messages(&st.Messages)
	o.count(o.memory, uint64(st.Memory))
	o.count(o.memoryLimit, uint64(st.MemoryLimit))
	o.count(o.subscriptions, uint64(st.Subscriptions))
	o.count(o.live, uint64(st.Live))
	for phase, count := range st.SubPhases.All() {
		o.count(o.subStates, uint64(count), attribute.String("state", phase.String()))
	}
	o.count(o.failed, st.FailedSubscriptions)
	o.count(o.malformed, st.Malformed)
	o.count(o.unrequested, st.Unrequested)
	o.count(o.io, st.BytesRead, attribute.String("network.io.direction", "receive"))
	o.count(o.io, st.BytesWritten, attribute.String("network.io.direction", "transmit"))

	o.count(o.published, st.Published)
	o.count(o.resent, st.Resent)
	for _, outcome := range []struct {
		name  string
		count uint64
	}{{"acked", st.Acked}, {"written", st.Written}, {"rejected", st.Rejected}, {"expired", st.Expired}, {"unsent", st.Unsent}, {"unknown", st.Unknown}, {"stored", st.Stored}} {
		o.count(o.outcomes, outcome.count, attribute.String("outcome", outcome.name))
	}
	o.count(o.window, uint64(st.Window))
	o.count(o.windowSize, uint64(st.WindowBytes))
	o.seconds(o.oldestPending, st.OldestPending)
}

func (o observer) messages(s *limpet.SubStats) {
	o.count(o.received, s.Received)
	o.count(o.delivered, s.Delivered)
	o.count(o.dropped, s.Dropped-s.DroppedByClose, attribute.String("reason", "overflow"))
	o.count(o.dropped, s.DroppedByClose, attribute.String("reason", "closed"))
	o.count(o.conflated, s.Conflated)
	o.count(o.waiting, uint64(s.Waiting))
	o.count(o.waitingSize, uint64(s.WaitingBytes))
	o.count(o.unacked, uint64(s.Unacked))
	o.count(o.discarded, s.Duplicates, attribute.String("reason", "duplicate"))
	o.count(o.discarded, s.Earlier, attribute.String("reason", "earlier"))
	o.count(o.losses, s.Gaps, attribute.String("kind", "gap"))
	o.count(o.losses, s.Resets, attribute.String("kind", "reset"))
	o.count(o.missed, s.Missed)
}

func (o observer) server(s *server.Server) {
	st := s.Stats()
	o.count(o.serverConnections, uint64(st.Pending), attribute.String("state", "handshaking"))
	o.count(o.serverConnections, uint64(max(0, st.Conns-st.Pending)), attribute.String("state", "ready"))
	o.count(o.serverSessions, uint64(st.Sessions))
	o.count(o.serverSubscriptions, uint64(st.Subscriptions))
	o.count(o.serverIDs, uint64(st.IDs))
	o.count(o.serverRefused, st.RefusedBusy, attribute.String("reason", "busy"))
	o.count(o.serverRefused, st.RefusedOrigin, attribute.String("reason", "origin"))
	o.count(o.serverRefused, st.RefusedRequest, attribute.String("reason", "request"))
	o.count(o.serverRefused, st.NoHello, attribute.String("reason", "no_hello"))
	o.count(o.serverRefused, st.Unauthenticated, attribute.String("reason", "unauthenticated"))
	o.count(o.serverClosed, st.Evicted, attribute.String("reason", "superseded"))
	o.count(o.serverClosed, st.Dead, attribute.String("reason", "dead"))
	o.count(o.serverClosed, st.Slow, attribute.String("reason", "slow"))
	o.count(o.serverUplink, st.Accepted, attribute.String("result", "accepted"))
	o.count(o.serverUplink, st.Duplicates, attribute.String("result", "duplicate"))
	o.count(o.serverUplink, st.Rejected, attribute.String("result", "rejected"))
	o.count(o.serverUplink, st.UplinkGaps, attribute.String("result", "given_up"))
	o.count(o.serverDelivered, st.Delivered)
	o.count(o.serverLosses, st.Gaps, attribute.String("kind", "gap"))
	o.count(o.serverLosses, st.Resets, attribute.String("kind", "reset"))
	o.count(o.serverFirst, st.First)
	o.count(o.serverHead, st.Head)
}

func (o observer) count(i metric.Int64Observable, n uint64, more ...attribute.KeyValue) {
	attributes := o.nameOnly
	if len(more) > 0 {
		attributes = metric.WithAttributeSet(attribute.NewSet(append(more, o.name)...))
	}
	o.ObserveInt64(i, int64(min(n, math.MaxInt64)), attributes)
}

func (o observer) seconds(i metric.Float64Observable, d time.Duration) {
	o.ObserveFloat64(i, d.Seconds(), o.nameOnly)
}

func (o observer) classes(i metric.Int64Observable, key string, counts limpet.ClassCounts) {
	for class, n := range counts.All() {
		if n > 0 || slices.Contains(classes, class) {
			o.count(i, n, attribute.String(key, string(class)))
		}
	}
}
