package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/limpet-go/limpet/gateway/internal/admission"
	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/gateway/redis"
)

// shared is an engine that gateways share: its servers are elsewhere, and may be slow.
type shared interface {
	engine

	// work returns what says whether the engine may get more connections.
	work() admission.Work

	// figures returns what /metrics shows.
	figures() []figure

	// leftOut returns how many messages of other programs in the log are no entries, and why the newest is not.
	leftOut() (count uint64, last error)
}

// figure is one value of a metric.
type figure struct {
	metric *metric
	label  string // "" if the metric has none
	value  float64
	count  uint64 // of a summary; value is the sum
}

// metric is the description of one, as in README.md.
type metric struct {
	kind prometheus.ValueType // Untyped: a summary
	desc *prometheus.Desc
}

const enginePrefix = "limpet_gateway_engine_"

// engineMetricsAll has each metric of engines.
var engineMetricsAll []*metric

func newMetric(kind prometheus.ValueType, name, help string, labels ...string) *metric {
	m := &metric{kind, prometheus.NewDesc(enginePrefix+name, help, labels, nil)}
	engineMetricsAll = append(engineMetricsAll, m)
	return m
}

const summary = prometheus.UntypedValue

var (
	mCommits   = newMetric(prometheus.CounterValue, "commits_total", "Changes, by result: done; conflict: another gateway has the session; failed: the engine did not do it, or it is not known.", "result")
	mCommit    = newMetric(summary, "commit_duration_seconds", "How long changes took, whatever their result.")
	mMessages  = newMetric(prometheus.CounterValue, "committed_messages_total", "Messages in changes that were done.")
	mBytes     = newMetric(prometheus.CounterValue, "committed_bytes_total", "Bytes of messages and records in changes that were done.")
	mKnown     = newMetric(prometheus.CounterValue, "known_ids_total", "Message ids of changes that the engine knew already.")
	mLost      = newMetric(prometheus.CounterValue, "lost_answers_total", "Changes whose answer was lost.")
	mResolved  = newMetric(prometheus.CounterValue, "resolved_answers_total", "Of them, those that were found done, or done, later.")
	mSync      = newMetric(summary, "sync_duration_seconds", "How long the gateway took to have all that was in the engine.")
	mReads     = newMetric(prometheus.CounterValue, "reads_total", "Reads of messages, by where they were: memory or engine.", "from")
	mWaiting   = newMetric(prometheus.GaugeValue, "waiting_reads", "Reads of messages from the engine that are in progress or wait for their turn.")
	mPending   = newMetric(prometheus.GaugeValue, "pending_calls", "Calls of the engine in progress: changes, syncs, look-ups of sessions and ids.")
	mAge       = newMetric(prometheus.GaugeValue, "pending_seconds", "For how long those in progress have been, on average.")
	mLag       = newMetric(prometheus.GaugeValue, "tail_lag_messages", "By how much the newest offset of the engine is greater than that of the gateway.")
	mSilence   = newMetric(prometheus.GaugeValue, "tail_silence_seconds", "Time since the gateway last heard of the engine.")
	mEpochs    = newMetric(prometheus.CounterValue, "epochs_total", "Changes of the epoch: all subscriptions get a Reset.")
	mLosses    = newMetric(prometheus.CounterValue, "losses_total", "Times that this gateway was the first to find that the engine has lost messages.")
	mTails     = newMetric(prometheus.CounterValue, "tail_restarts_total", "JetStream: consumers of the tail that ended: connection lost, a message missing, silence.")
	mHoles     = newMetric(prometheus.CounterValue, "tail_holes_total", "JetStream: of them, those because a message was missing.")
	mInProcess = newMetric(prometheus.CounterValue, "in_process_total", "JetStream: tries of changes that the servers asked to repeat.")
	mNATS      = newMetric(prometheus.CounterValue, "nats_messages_total", "JetStream: messages that no gateway has written, by result: taken, refused: not valid, foreign: in another subject of the log.", "result")
)

func (m *metric) is(v float64) figure { return figure{metric: m, value: v} }

func (m *metric) with(label string, v uint64) figure {
	return figure{metric: m, label: label, value: float64(v)}
}

func (m *metric) of(n uint64, sum time.Duration) figure {
	return figure{metric: m, value: sum.Seconds(), count: n}
}

// engineMetrics are the metrics of an engine.
type engineMetrics struct{ engine shared }

// Describe implements prometheus.Collector.
func (engineMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range engineMetricsAll {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (e engineMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, f := range e.engine.figures() {
		var labels []string
		if f.label != "" {
			labels = []string{f.label}
		}
		if f.metric.kind == summary {
			ch <- prometheus.MustNewConstSummary(f.metric.desc, f.count, f.value, nil, labels...)
			continue
		}
		ch <- prometheus.MustNewConstMetric(f.metric.desc, f.metric.kind, f.value, labels...)
	}
}

// onNATS is an engine on NATS JetStream.
type onNATS struct{ *jetstream.Store }

func (e onNATS) work() admission.Work {
	s := e.Stats()
	return admission.Work{
		Commits: s.Called, CommitTime: s.CommitTime, Syncs: s.Syncs, SyncTime: s.SyncTime,
		Pending: s.Pending, PendingTime: s.PendingTime, Head: e.View().Head, Lag: s.Lag,
	}
}

func (e onNATS) leftOut() (uint64, error) { return e.Stats().Refused, e.LastRefused() }

func (e onNATS) figures() []figure {
	s := e.Stats()
	return []figure{
		mCommits.with("done", s.Commits), mCommits.with("conflict", s.Conflicts), mCommits.with("failed", s.Failed), mCommit.of(s.Called, s.CommitTime),
		mMessages.is(float64(s.Messages)), mBytes.is(float64(s.Bytes)), mKnown.is(float64(s.KnownIDs)),
		mLost.is(float64(s.Unknown + s.Resolved)), mResolved.is(float64(s.Resolved)), mSync.of(s.Syncs, s.SyncTime),
		mReads.with("memory", s.Hits), mReads.with("engine", s.Reads), mWaiting.is(float64(s.Waiting)),
		mPending.is(float64(s.Pending)), mAge.is(s.PendingTime.Seconds()), mLag.is(float64(s.Lag)), mSilence.is(s.Heard.Seconds()),
		mEpochs.is(float64(s.Epochs)), mLosses.is(float64(s.Rewinds)),
		mTails.is(float64(s.Tails)), mHoles.is(float64(s.Holes)), mInProcess.is(float64(s.InProcess)),
		mNATS.with("taken", s.Plain), mNATS.with("refused", s.Refused), mNATS.with("foreign", s.Foreign),
	}
}

// onRedis is an engine on Redis.
type onRedis struct{ *redis.Store }

func (e onRedis) work() admission.Work {
	s := e.Stats()
	return admission.Work{
		Commits: s.CommitCalls, CommitTime: s.CommitTime, Syncs: s.Syncs, SyncTime: s.SyncTime,
		Pending: s.Pending, PendingTime: s.PendingTime, Head: s.Head, Lag: s.Behind,
	}
}

func (onRedis) leftOut() (uint64, error) { return 0, nil }

func (e onRedis) figures() []figure {
	s := e.Stats()
	return []figure{
		mCommits.with("done", s.Commits), mCommits.with("conflict", s.Conflicts), mCommits.with("failed", s.Failed), mCommit.of(s.CommitCalls, s.CommitTime),
		mMessages.is(float64(s.CommitEntries)), mBytes.is(float64(s.CommitBytes)), mKnown.is(float64(s.KnownIDs)),
		mLost.is(float64(s.Unknown)), mResolved.is(float64(s.Resolved)), mSync.of(s.Syncs, s.SyncTime),
		mReads.with("memory", s.RingHits+s.HistoryHits), mReads.with("engine", s.Reads), mWaiting.is(float64(s.Waiting)),
		mPending.is(float64(s.Pending)), mAge.is(s.PendingTime.Seconds()), mLag.is(float64(s.Behind)), mSilence.is(s.Silent.Seconds()),
		mEpochs.is(float64(s.Epochs)), mLosses.is(float64(s.Divergences)),
	}
}
