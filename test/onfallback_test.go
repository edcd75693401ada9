package test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
)

var (
	fallbackFlag = flag.Bool("fallback", false, "run the tests of limpet.v1 that can over plain HTTP requests, and skip those of leftOut")
	wholeFlag    = flag.Bool("whole", false, "with -fallback: also those that take long")
)

// refusedUpgrades are the tests whose upgrades were refused because of the flag -fallback, so
// that their clients went on with plain requests.
var refusedUpgrades struct {
	sync.Mutex
	tests map[string]bool
}

// onFallback gives a client whose server may speak the fallback a path that refuses its upgrades.
// A test that wants the fallback itself has a path of its own.
func onFallback(o *limpet.Options) {
	if o.Fallback || o.HTTPClient == nil || o.Dialect != nil && !o.Dialect.Traits().Fallback {
		return
	}
	transport, ok := o.HTTPClient.Transport.(*http.Transport)
	if !ok || transport == nil {
		return
	}
	client := *o.HTTPClient
	client.Transport = refusingUpgrades(transport, callingTest())
	o.HTTPClient, o.Fallback = &client, true
}

// callingTest returns the name of the test that runs on this goroutine.
func callingTest() string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(1, callers)])
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		name, _, _ := strings.Cut(f.Function[strings.LastIndex(f.Function, "/")+1:], "[")
		if parts := strings.Split(name, "."); len(parts) > 1 && strings.HasPrefix(parts[1], "Test") {
			return parts[1]
		}
	}
	return ""
}

// withRefusals has the transports that refusingUpgrades has returned, by what they were made of:
// clients that share a transport share a governor.
var withRefusals sync.Map

// refusingUpgrades returns a transport like t on whose connections upgrades are refused.
func refusingUpgrades(t *http.Transport, test string) *http.Transport {
	if known, ok := withRefusals.Load(t); ok {
		return known.(*http.Transport)
	}
	own, dial := t.Clone(), t.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	own.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &narrowConn{Conn: nc, refused: func() {
			refusedUpgrades.Lock()
			defer refusedUpgrades.Unlock()
			if refusedUpgrades.tests == nil {
				refusedUpgrades.tests = map[string]bool{}
			}
			refusedUpgrades.tests[test] = true
		}}, nil
	}
	withRefusals.Store(t, own)
	withRefusals.Store(own, own)
	return own
}

// narrowConn answers an upgrade request itself, with a refusal.
type narrowConn struct {
	net.Conn
	refused func()
	answer  atomic.Pointer[bytes.Reader] // in place of what the server would say; one goroutine reads
}

const refusedHere = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

func (c *narrowConn) Write(p []byte) (int, error) {
	head, _, _ := bytes.Cut(p, []byte("\r\n\r\n"))
	if c.answer.Load() == nil && bytes.Contains(head, []byte("\r\nUpgrade: websocket")) {
		c.refused()
		c.answer.Store(bytes.NewReader([]byte(refusedHere)))
		c.Conn.Close()
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *narrowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if answer := c.answer.Load(); n == 0 && err != nil && answer != nil {
		if n, _ = answer.Read(p); n > 0 {
			return n, nil
		}
		return 0, io.EOF
	}
	return n, err
}

// leftOut are the tests that do not run with the flag -fallback, by the reason.
var leftOut = []struct{ reason, tests string }{
	{"its server is a script of the test, which speaks WebSocket only", `
		TestHostileReplies TestAbsurdRetryOfAConnection TestAbsurdRetryOfASubscription TestAgeCountsFromTheUpgrade TestAnswerForgetsRefusals
		TestAnswerTimeBeginsWithTheWelcome TestCallsDuringShutdown TestCloseFrameDecidesOverAFailedWrite TestClosedAtNight
		TestCredentialIsSecretDuringRotation TestCredentialRefusedDuringRotation TestCredentialWithoutToken TestCreditIsNoProofOfStability
		TestDialTimeoutOfTheNextConnectionGrows TestErrorsOfSessions TestExpiryOfAConnectionThatWasLeft TestFatalErrorFrameDecides
		TestGoAwayCountsFromItsArrival TestGoAwayDeadlineBoundsTheSpread TestGoAwayIsNeverUndercut TestGoAwayNamesAURL
		TestGoAwayWithADelayIsFollowed TestHandshakeViolations TestLateAnswerDoesNotCount TestLimitsOfTheServer TestLookPingsInTheProtocol
		TestLostSessionRenumbers TestManyTokensHideNoTicketLess TestManyWishesAreOneCall TestMoodyServers TestNewTokenIsNotRepeated
		TestNextConnectionSpeaksNothing TestNoSubprotocolIsFinal TestPatienceWithTheHandshakeGrows TestPatienceWithTheHandshakeStartsAgain
		TestPermanentAfterTheLoss TestPermanentDuringRotation TestPermanentEndKeepsWhatWaits TestPongsOwedAreBounded TestProbeFailsDuringRotation
		TestReceivedMessagesProveAConnection TestRefreshFails TestRefreshFailsForGood TestRefreshKeepsTheLimit TestRefreshOfALostConnection
		TestRefreshThatPanicsIsLogged TestRefreshWithoutAuth TestRefusalBeforeAReadyConnectionIsForgotten TestRefusalOnTheConnection
		TestRefusalOutlivesTheConnection TestRefusedClientKeepsItsPlace TestRefusedSubscriptionHasAClass TestRefusedSubscriptions
		TestRenewalRespectsGoAway TestRepeatsAreDropped TestRetryAfterOfTheIssuer TestRetryOfAFatalError TestRotationAndRefreshShareAuth
		TestRotationIsRedirectedLater TestRotationWithResolverEndpointsAndTicket TestRotationsOfSessions TestSelectiveAckIsNotSentAgain
		TestServerThatCannotRefresh TestServerWithoutAnswer TestSessionKeyIsNotRepeated TestSilentAfterUpgrade TestSlotHoldsForTheNextConnection
		TestSlotOfTheConnectionInUseHolds TestSlotOutlivesTheConnectionInUse TestSlowChangeIsAnOutage TestSlowServerIsNotAskedAgain
		TestTimesOfCredentials TestTooBigBeforeAnything TestTooBigBlamesTheRightMessage TestTooBigEachTimeEnds TestTooBigHandshakeBlamesNoMessage
		TestTooBigIsOneReset TestURLOfAConnectionThatWasLeft TestUnansweredSubscriptionEndsAlone TestViolations TestViolationsAfterReadyEndNothing
		TestWishDuringACall`},
	{"it counts connections or attempts, or injects faults by their number, and over requests there are three for each client; or its faults need frames of a WebSocket, or it says how an upgrade fails", `
		TestADayOfFaults TestAVerdictEndsAtTheFirstEndpoint TestAcceptThenDropForAnHour TestClientsDoNotShareRefusals TestDialAfterASlowAuthCountsLater
		TestDialFunctionThatHangs TestDialsKeepTheLimit TestEndpointIsNamed TestEndpointThatGoesAway TestEndpointThatRefusesForGood
		TestEveryDialKeepsTheLimit TestFailedHandshakeIsNoOutage TestFailedWriteIsTheCause TestFailuresByClass TestGoexitInTheDialect
		TestLookGivesUpAHandshakeThatHangs TestLookGivesUpAnAttemptThatHangs TestLookRespectsTheSlot TestManyClientsAreNoHerd
		TestNextAttemptHasTheTurn TestNextRotationHasTheTurn TestOldestOutlivesItsSession TestPanicOfTheDialect TestPanicOfTheTransport
		TestReconnectTables TestRetry TestRetryAfterIsNeverUndercut TestRoundCostsOneWait TestSlotOutlivesTheAnswersOfTheResolver
		TestTokenServerIsNotTheHost TestVerdictKeepsTheRefusalInMind TestVerdictThatFails`},
	{"it is about HELLO in the upgrade request, which the GET does not have", `
		TestAnnouncedCredentials TestAnnouncedInVain TestChangesAfterTheAnnouncement TestHelloIsBounded TestNotAnnouncedAgain TestNothingIsAnnounced
		TestPathThatRefusesTheAnnouncement TestRedirectedAnnouncement TestRequestThatArrivesTwice TestResumeInTheFirstFlight`},
	{"it is about a redirect, a tunnel, or a way to another server for each request: docs/fallback.md says what becomes of the GET there", `
		TestAnswerAfterARedirect TestDrainToAnotherNodeDoublesNothing TestFallbackIsAsked TestProxyRefusals TestProxyRefusesWSS TestProxyTLS
		TestProxyTunnel TestRedirectIsFollowed TestRedirectIsRefused TestRedirectThroughAProxy TestRedirectToAnotherMachine TestRedirectWithATime
		TestRedirectWithoutATurn TestRedirectsInARow`},
	{"on a slow link, or one that loses answers, requests take longer than the frames of a WebSocket, or lose a connection", `
		TestControlFramesBeforeABacklog TestExpiredMessagesLeaveTheWindow TestOutboxResumesTheSession TestPatienceWithSilenceGrows TestProbeDuringASlowWrite TestSlowDownlinkIsNoLoss
		TestSlowUplinkIsNoLoss`},
	{takesLong, `
		TestADayOfFaultsNoticesLeaks TestDrainAndShutdown TestEndDuringARotation TestManySubscriptionsAreBackInTime TestNothingElseEndsAClient
		TestPeerTextHoldsNoSecret`},
	{noClient, `
		TestCloseUnderTLSIsBounded TestConnectionThatIsTooFarBehind TestConnectionsAreRenewedInTime TestConnectionsOfDifferentLength
		TestCursorSurvivesKill TestEndings TestFormsOfA101 TestManyReconnectsLeaveNothing TestManyReconnectsOnSocketsLeaveNothing
		TestManyRequestsToMove TestPaceIsLearned TestPaceIsLearnedFromErrors TestRefusedUpgrade TestRotationThatFails TestStalledDialHoldsUpNoOther
		TestStalledDialLeavesNothing TestStoppedProcessKeepsItsConnection TestSubscriptionEndedByTheServer TestTopicAgainHasALifeOfItsOwn
		TestTopicsAtRandom TestWildDialects TestWrappedBodySurvivesASlowPeer`},
}

const (
	takesLong = "it takes long: -whole runs it"
	noClient  = "it takes half a second or more, and has no client that would use requests"
)

// skipLeftOut makes go test skip the tests that are left out, says so, and returns how many there are.
func skipLeftOut() (n int) {
	skip := flag.Lookup("test.skip")
	var names []string
	for _, group := range leftOut {
		if tests := strings.Fields(group.tests); group.reason != takesLong || !*wholeFlag {
			names = append(names, tests...)
			fmt.Printf("not over plain requests, because %s: %s\n", group.reason, strings.Join(tests, ", "))
		}
	}
	pattern := "^(" + strings.Join(names, "|") + ")$"
	if own := skip.Value.String(); own != "" {
		pattern += "|" + own
	}
	if err := skip.Value.Set(pattern); err != nil {
		panic(err)
	}
	return len(names)
}

// TestMain says with -fallback how many tests ran over plain requests.
func TestMain(m *testing.M) {
	flag.Parse()
	n := 0
	if *fallbackFlag {
		n = skipLeftOut()
	}
	code := m.Run()
	if *fallbackFlag {
		refusedUpgrades.Lock()
		fmt.Printf("over plain requests: %d tests; %d are left out\n", len(refusedUpgrades.tests), n)
		refusedUpgrades.Unlock()
	}
	os.Exit(code)
}

// If the helper ignored -fallback, the run would test WebSocket connections again.
func TestFallbackFlagIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, limpettest.NewServer(t, nil), nil)
		if got := c.State().Transport; (got == limpet.TransportHTTP) != *fallbackFlag {
			t.Errorf("the transport is %s with -fallback=%v", got, *fallbackFlag)
		}
	})
}

// A test that has another name now would run with -fallback without a reason not to.
func TestWhatIsLeftOutExists(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	assert.NoError(t, err)
	var all []byte
	for _, name := range files {
		text, err := os.ReadFile(name)
		assert.NoError(t, err)
		all = append(all, text...)
	}
	for _, group := range leftOut {
		for _, name := range strings.Fields(group.tests) {
			if !bytes.Contains(all, []byte("\nfunc "+name+"(")) {
				t.Errorf("there is no test %s", name)
			}
		}
	}
}
