package wiretest

import (
	"github.com/limpet-go/limpet/limpettest"
)

// checks are the checks of the suite, in the order in which they run.
var checks = []check{
	{name: "dialect", pure: checkDialect},
	{name: "memory", pure: checkMemory},
	{name: "frames", pure: checkFrames},
	{name: "values", pure: checkValues},
	{name: "beginnings", pure: checkFrom},
	{name: "hostile input", pure: checkHostile},
	{name: "growth", pure: checkGrowth},
	{name: "allocations", pure: checkAllocations},
	{name: "new credential", pure: checkRefresh},
	{name: "calls", pure: checkCalls},
	{name: "messages", faults: healthy, client: checkMessages},
	{name: "two clients", faults: healthy, client: checkTwoClients},
	{name: "lost connections", faults: lossOfConnections, client: checkLosses},
	{name: "silent connection", faults: silence, client: checkLosses},
	{name: "idle connection", faults: healthy, client: checkIdle},
	{name: "pings of the server", faults: whereServerPings, client: checkServerPing},
	{name: "numbers", faults: whereNumbered, client: checkNumbers},
	{name: "refused subscription", faults: whereRefused, client: checkRefused},
	{name: "end of a subscription", faults: whereUnsubscribed, client: checkUnsubscribe},
	{name: "subscription ended by the server", faults: whereEnded, client: checkEnded},
	{name: "publishes", faults: wherePublished, client: checkPublishes},
	{name: "publishes without an answer", faults: wherePublished, client: checkUnanswered},
	{name: "rejected publish", faults: whereRejected, client: checkRejected},
	{name: "publishes over lost connections", faults: whereLostPublishes, client: checkLostPublishes},
	{name: "processed messages", faults: whereProcessed, client: checkProcessed},
	{name: "processed messages over lost connections", faults: whereLostProcessed, client: checkLostProcessed},
	{name: "credential", faults: whereCredential, client: checkToken},
	{name: "refused credential", faults: whereCredential, client: checkCredential},
}

// healthy is one trial without a fault.
func healthy(*Subject, *report) []limpettest.Fault { return []limpettest.Fault{limpettest.Clean()} }

// lossOfConnections is a trial for each of the first frames in either direction: the
// connection ends there, with a FIN and with a RST.
func lossOfConnections(*Subject, *report) (faults []limpettest.Fault) {
	for n := range 12 {
		faults = append(faults, limpettest.CutAfterFrames(limpettest.Down, n), limpettest.ResetAfterFrames(limpettest.Down, n))
	}
	for n := range 4 {
		faults = append(faults, limpettest.CutAfterFrames(limpettest.Up, n), limpettest.ResetAfterFrames(limpettest.Up, n))
	}
	return append(faults, limpettest.CloseWith(1001, "deploy", 6), limpettest.CloseWith(1012, "restart", 8))
}

// silence is a connection on which nothing arrives any more, after some frames.
func silence(*Subject, *report) []limpettest.Fault {
	return []limpettest.Fault{
		limpettest.BlackHole(limpettest.Both).AfterFrames(limpettest.Down, 2),
		limpettest.BlackHole(limpettest.Both).AfterFrames(limpettest.Down, 7),
		limpettest.BlackHole(limpettest.Down).AfterFrames(limpettest.Down, 5),
	}
}
