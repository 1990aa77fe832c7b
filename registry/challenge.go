package registry

import (
	"net/http"
	"strings"
)

// challenges parses the WWW-Authenticate headers (RFC 9110 §11.6.1) into parameters
// by lower-case scheme. Of several challenges with one scheme the first counts; what
// is malformed ends the header it is in.
func challenges(h http.Header) map[string]map[string]string {
	found := map[string]map[string]string{}
	for _, line := range h.Values("WWW-Authenticate") {
		s := scanner(line)
		var params map[string]string
		for {
			s.skip(" \t,")
			word := s.token()
			if word == "" {
				break
			}
			if s.next('=') {
				value, ok := s.value()
				if !ok || params == nil {
					break
				}
				params[strings.ToLower(word)] = value
				continue
			}
			params = map[string]string{}
			if scheme := strings.ToLower(word); found[scheme] == nil {
				found[scheme] = params
			}
		}
	}
	return found
}

// scanner is the unread rest of a header value.
type scanner string

func (s *scanner) skip(set string) { *s = scanner(strings.TrimLeft(string(*s), set)) }

func (s *scanner) next(c byte) bool {
	if len(*s) > 0 && (*s)[0] == c {
		*s = (*s)[1:]
		return true
	}
	return false
}

func (s *scanner) token() string {
	i := 0
	for i < len(*s) && isTokenByte((*s)[i]) {
		i++
	}
	t := string((*s)[:i])
	*s = (*s)[i:]
	return t
}

func (s *scanner) value() (string, bool) {
	if !s.next('"') {
		t := s.token()
		return t, t != ""
	}
	var b strings.Builder
	for len(*s) > 0 {
		c := (*s)[0]
		*s = (*s)[1:]
		switch {
		case c == '"':
			return b.String(), true
		case c == '\\' && len(*s) > 0:
			b.WriteByte((*s)[0])
			*s = (*s)[1:]
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

func isTokenByte(c byte) bool {
	return c > ' ' && c < 0x7f && !strings.ContainsRune(`()<>@,;:\"/[]?={}`, rune(c))
}
