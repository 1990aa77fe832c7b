package cli

import "strconv"

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// knownCount writes a count that the engine may not have computed.
func knownCount(n int64) string {
	if n == -1 {
		return "N/A"
	}
	return itoa(n)
}
