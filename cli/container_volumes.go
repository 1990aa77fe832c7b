package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// parseVolumes sorts -v values: with a source they are binds (a host path or a volume's name,
// the engine tells them apart), without one they are anonymous volumes. A source that starts
// with a dot is relative to the client's directory.
func parseVolumes(values []string) (binds []string, anonymous map[string]struct{}, err error) {
	anonymous = map[string]struct{}{}
	for _, value := range values {
		if value == "" {
			return nil, nil, errors.New("invalid empty volume spec")
		}
		source, rest, bound := strings.Cut(value, ":")
		if !bound {
			anonymous[value] = struct{}{}
			continue
		}
		if source == "" || rest == "" {
			return nil, nil, fmt.Errorf("invalid spec: %s: empty section between colons", value)
		}
		for _, section := range strings.Split(rest, ":") {
			if section == "" {
				return nil, nil, fmt.Errorf("invalid spec: %s: empty section between colons", value)
			}
		}
		if strings.Count(rest, ":") > 1 {
			return nil, nil, fmt.Errorf("invalid spec: %s: too many colons", value)
		}
		if strings.HasPrefix(source, ".") {
			if source, err = filepath.Abs(source); err != nil {
				return nil, nil, err
			}
		}
		binds = append(binds, source+":"+rest)
	}
	return binds, anonymous, nil
}
