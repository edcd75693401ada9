package histogram

import "time"

// Lag measures how old messages are when a consumer gets them. A clock read costs as much
// as the message. So of each socket read it measures the messages 1, 2, 4, 16 and then one in
// LagEvery: a consumer that is slow shows in a burst too. Those in between
// count as the next one that is measured, the last ones of a read as the one before. It is
// not safe for concurrent use.
type Lag struct {
	Delivery *Histogram // from the socket read on
	Source   *Histogram // of news: from the server's time on

	now       time.Time     // of the hand-over, if it is known
	known     bool          // now is known
	readAt    time.Time     // the socket read of the last message
	lag       time.Duration // of its last message that was measured
	sourceLag time.Duration // of its last news
	taken     uint32        // of its messages
	next      uint32        // of them that is measured
	uncounted uint32        // of them
	timed     uint32        // of them: news with a time
}

// LagEvery is how many messages of one read have one clock read at least.
const LagEvery = 64

// Message measures a message that is handed over. news is the server's time in ns since 1970,
// 0 if it has none or repeats what was known.
func (l *Lag) Message(readAt *time.Time, news int64) {
	if *readAt != l.readAt {
		l.Count()
		l.readAt, l.taken, l.next = *readAt, 0, 1
		if l.known {
			l.lag = l.now.Sub(*readAt)
		}
	}
	l.taken++
	l.uncounted++
	if l.taken == l.next {
		switch {
		case l.next < 4:
			l.next *= 2
		case l.next < 16:
			l.next = 16
		default:
			l.next += LagEvery - l.next%LagEvery
		}
		if !l.known {
			l.now, l.known = time.Now(), true
			l.lag = l.now.Sub(*readAt)
		}
	}
	if news > 0 {
		l.timed++
		l.sourceLag = time.Duration(readAt.UnixNano()-news) + l.lag
	}
}

// End ends what is handed over at once.
func (l *Lag) End() {
	if l.known {
		l.known = false
		l.Count()
	}
}

// Count adds what was measured to the histograms.
func (l *Lag) Count() {
	if l.uncounted == 0 {
		return
	}
	l.Delivery.Add(l.lag, uint64(l.uncounted))
	l.uncounted = 0
	if l.timed > 0 {
		l.Source.Add(l.sourceLag, uint64(l.timed))
		l.timed = 0
	}
}
