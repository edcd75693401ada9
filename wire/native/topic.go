package native

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// Bounds of a topic (docs/protocol.md, section 1).
const (
	MaxTopic       = 255 // bytes
	MaxTopicLevels = 16
)

// TopicError says why a topic cannot be used. Topic is the whole topic; the text
// of the error quotes at most its first 64 bytes.
type TopicError struct {
	Topic  string
	Reason string
}

// Error returns the beginning of the topic and the reason.
func (e *TopicError) Error() string {
	return fmt.Sprintf("topic %s: %s", quoteShort(e.Topic), e.Reason)
}

// quoteShort quotes the first 64 bytes of s for a log line.
func quoteShort(s string) string {
	const shown = 64
	if len(s) <= shown {
		return fmt.Sprintf("%+q", s)
	}
	return fmt.Sprintf("%+q...", clip(s, shown))
}

// clip returns the longest prefix of s that has at most n bytes and does not
// end inside a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for cut := n; cut > n-utf8.UTFMax && cut >= 0; cut-- {
		if utf8.RuneStart(s[cut]) {
			return s[:cut]
		}
	}
	return s[:n]
}

// CheckTopic returns nil if topic is valid for use by the rules of
// docs/protocol.md, section 1, otherwise a *TopicError.
func CheckTopic(use wire.Use, topic string) error {
	if reason := topicFault(use, topic); reason != "" {
		return &TopicError{topic, reason}
	}
	return nil
}

// topicFault returns what is wrong with topic; empty if it is valid for use.
func topicFault(use wire.Use, topic string) string {
	if topic == "" {
		return "it is empty; use levels such as orders/eu"
	}
	if len(topic) > MaxTopic {
		return fmt.Sprintf("%d bytes; use at most %d", len(topic), MaxTopic)
	}
	levels, start := 1, 0
	for i, c := range topic {
		switch {
		case c == utf8.RuneError && !strings.HasPrefix(topic[i:], "\uFFFD"):
			return "it must be UTF-8"
		case c < 0x20 || c >= 0x7f && c < 0xa0:
			return "it must not contain a control character"
		case c == '/':
			if reason := levelFault(use, topic[start:i], false); reason != "" {
				return reason
			}
			levels, start = levels+1, i+1
		}
	}
	if levels > MaxTopicLevels {
		return fmt.Sprintf("%d levels; use at most %d", levels, MaxTopicLevels)
	}
	return levelFault(use, topic[start:], true)
}

// levelFault returns what is wrong with one level of a topic.
func levelFault(use wire.Use, level string, last bool) string {
	switch {
	case level == "":
		return "a level must not be empty"
	case level != "*" && level != "**":
		return ""
	case use == wire.UsePublish:
		return "a wildcard is only for subscriptions; use the name of one topic"
	case level == "**" && !last:
		return "** must be the last level"
	}
	return ""
}

// Match reports whether a subscription to pattern receives topic. A level * stands
// for exactly one level, a final ** for one or more. Both arguments must have
// passed CheckTopic.
func Match(pattern, topic string) bool {
	for {
		p, prest, pmore := strings.Cut(pattern, "/")
		if p == "**" && !pmore {
			return topic != ""
		}
		t, trest, tmore := strings.Cut(topic, "/")
		if p != "*" && p != t || pmore != tmore {
			return false
		}
		if !pmore {
			return t != ""
		}
		pattern, topic = prest, trest
	}
}
