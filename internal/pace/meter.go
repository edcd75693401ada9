package pace

import "time"

// Meter counts what was sent in the last ten to twenty seconds. The zero Meter is ready for
// use. It is not safe for concurrent use, and has no clock.
type Meter struct {
	second       span // that began last
	ten          span // seconds that began last
	busiest      int  // second of these ten
	tenBefore    int  // what was sent in the ten before
	busiestThere int
}

// span is a time that begins when something is sent, and what was sent in it.
type span struct {
	since time.Time
	sent  int
}

const period = 10 * time.Second // what is counted is forgotten after one or two of them

// Add counts what is sent now.
func (m *Meter) Add(now time.Time, n int) {
	if now.Sub(m.second.since) >= time.Second {
		m.second = span{since: now}
	}
	if passed := now.Sub(m.ten.since); passed >= period {
		m.tenBefore, m.busiestThere = 0, 0
		if passed < 2*period {
			m.tenBefore, m.busiestThere = m.ten.sent, m.busiest
		}
		m.ten, m.busiest = span{since: now}, 0
	}
	m.second.sent += n
	m.ten.sent += n
	m.busiest = max(m.busiest, m.second.sent)
}

// Recent returns what was sent lately, and how much of it in the busiest second.
func (m *Meter) Recent(now time.Time) (sent, busiest int) {
	switch passed := now.Sub(m.ten.since); {
	case passed >= 2*period:
		return 0, 0
	case passed >= period:
		return m.ten.sent, m.busiest
	}
	return m.tenBefore + m.ten.sent, max(m.busiestThere, m.busiest)
}
