package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// securityOptions is what --security-opt becomes. maskedPaths and readonlyPaths stay nil (the
// engine's defaults) unless systempaths=unconfined empties them.
type securityOptions struct {
	options                    []string
	maskedPaths, readonlyPaths []string
}

// parseSecurity inlines a seccomp profile: the file is the client's, the engine may be far away.
func parseSecurity(values []string) (securityOptions, error) {
	var s securityOptions
	for _, value := range values {
		key, argument, ok := strings.Cut(value, "=")
		if !ok && key != "no-new-privileges" {
			// The colon is the separator of old; engines still take it.
			if key, argument, ok = strings.Cut(value, ":"); !ok {
				return s, fmt.Errorf("invalid --security-opt: %q", value)
			}
		}
		switch {
		case key == "systempaths" && argument == "unconfined":
			s.maskedPaths, s.readonlyPaths = []string{}, []string{}
			continue
		case key == "seccomp" && argument != "unconfined" && argument != "builtin":
			profile, err := readSeccompProfile(argument)
			if err != nil {
				return s, err
			}
			value = "seccomp=" + profile
		}
		s.options = append(s.options, value)
	}
	return s, nil
}

func readSeccompProfile(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile (%s) failed: %w", path, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return "", fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", path, err)
	}
	return compact.String(), nil
}
