// Package traits checks what a dialect says about its protocol, and lowers it to what a peer can do.
package traits

import (
	"fmt"

	"github.com/limpet-go/limpet/wire"
)

// Problem is what is wrong with one trait.
type Problem struct {
	Trait string // its name
	Text  string // what follows the name: "needs Publish"
}

// The largest numbers that a trait may have.
const (
	maxCount = 1 << 30
	maxDedup = 1 << 20
)

// Check returns what is wrong with traits: values that do not exist, and traits that mean
// nothing together.
func Check(t *wire.Traits) (problems []Problem) {
	refuse := func(trait, format string, args ...any) {
		problems = append(problems, Problem{trait, fmt.Sprintf(format, args...)})
	}
	for _, n := range []struct {
		name        string
		value, last int
	}{
		{"Holes", int(t.Holes), int(wire.HolesFault)}, {"Processed", int(t.Processed), int(wire.ProcessedCumulative)},
		{"Ping", int(t.Ping), int(wire.PingNone)}, {"DedupWindow", t.DedupWindow, maxDedup},
		{"StartSubs", t.StartSubs, maxCount}, {"MaxPayload", t.MaxPayload, maxCount},
		{"StartBytes", t.StartBytes, maxCount}, {"MinReadLimit", int(t.MinReadLimit), maxCount},
	} {
		if n.value < 0 || n.value > n.last {
			refuse(n.name, "is %d; use 0 to %d", n.value, n.last)
		}
	}
	for _, both := range []struct {
		refused   bool
		trait, is string
	}{
		{t.Acks && !t.Publish, "Acks", "needs Publish"},
		{t.Sessions && !t.Acks, "Sessions", "needs Acks"},
		{t.Streams && !t.Publish, "Streams", "needs Publish"},
		{t.Streams && t.Acks, "Streams", "excludes Acks"},
		{t.Streams && t.MaxPayload > 0, "Streams", "excludes MaxPayload"},
		{t.Dedup && !t.Sessions, "Dedup", "needs Sessions"},
		{t.KeepsSubs && !t.Greeting, "KeepsSubs", "needs Greeting"},
		{t.KeepsSubs && !t.ByKey && (t.StartSubs == 0 || t.ConfirmsEnd), "KeepsSubs", "needs ByKey, or StartSubs without ConfirmsEnd"},
		{t.EarlyStart && (!t.Greeting || !t.ByKey), "EarlyStart", "needs Greeting and ByKey"},
		{t.EarlyStart && t.KeepsSubs, "EarlyStart", "excludes KeepsSubs"},
		{t.Release && t.Processed != wire.ProcessedEach, "Release", "needs ProcessedEach"},
		{t.MaxPayload > 0 && !t.Publish, "MaxPayload", "needs Publish"},
		{t.StartBytes > 0 && t.StartSubs == 0, "StartBytes", "needs StartSubs"},
		{t.Holes == wire.HolesFault && !t.Confirms, "Holes", "is HolesFault, which needs Confirms"},
		{t.Holes == wire.HolesFault && t.LookBack > 0, "LookBack", "has no meaning with HolesFault"},
		{t.Silent && t.Publish, "Silent", "excludes Publish"},
		{t.Silent && t.Calls, "Silent", "excludes Calls"},
		{t.Silent && t.Unsubscribe, "Silent", "excludes Unsubscribe"},
		{t.Silent && t.Credit, "Silent", "excludes Credit"},
		{t.Silent && t.Fin, "Silent", "excludes Fin"},
		{t.Silent && t.Refresh, "Silent", "excludes Refresh"},
		{t.Silent && t.Processed != wire.ProcessedNothing, "Silent", "excludes Processed"},
		{t.Silent && t.Ping == wire.PingOp, "Silent", "excludes PingOp"},
	} {
		if both.refused {
			refuse(both.trait, "%s", both.is)
		}
	}
	if name, problem := t.Connection.Check(); name != "" {
		refuse("Connection."+name, "%s", problem)
	}
	if c := t.CloseCode; c != 0 && (c < 1000 || c > 4999 || c > 1014 && c < 3000 || c >= 1004 && c <= 1006) {
		refuse("CloseCode", "is %d; use 0, 1000 or 3000 to 4999", c)
	}
	return problems
}

// Sharing returns why subscriptions to one topic cannot share one at a server that knows one to a
// topic; "" if they can.
func Sharing(t *wire.Traits) (why string) {
	const alone = "; let one subscription have several consumers, or hand on what it gets"
	switch {
	case t.Processed != wire.ProcessedNothing:
		return "the server waits for acknowledgements, which can come from one subscription only" + alone
	case t.Credit:
		return "the server sends what one subscription has room for" + alone
	case t.KeepsSubs, t.Resume:
		return "the server goes on after the last message that one subscription has received, which may be another one for each" + alone
	case t.Holes == wire.HolesFault:
		return "the server promises that no message of one subscription is missing, which one that begins later cannot check" + alone
	}
	return ""
}

// Agreed returns the traits of a connection: those of the dialect, without what its
// peer lacks. Nil means that the peer lacks nothing.
func Agreed(dialect, peer *wire.Traits) *wire.Traits {
	if peer == nil {
		return dialect
	}
	t := *dialect
	t.Unsubscribe = t.Unsubscribe && peer.Unsubscribe
	t.Credit = t.Credit && peer.Credit
	t.Fin = t.Fin && peer.Fin
	t.Refresh = t.Refresh && peer.Refresh
	t.Dedup = t.Dedup && peer.Dedup
	t.Calls = t.Calls && peer.Calls
	t.Acks = t.Acks && (peer.Acks || t.Sessions)
	if peer.Processed == wire.ProcessedNothing {
		t.Processed = wire.ProcessedNothing
	}
	return &t
}
