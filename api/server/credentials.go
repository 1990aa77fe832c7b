package server

import (
	"net/url"
)

// maskCredentials hides user and password of a URL.
func maskCredentials(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	u.User = url.UserPassword("xxxxx", "xxxxx")
	return u.String()
}
