package cli

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// parseDevices splits --device values into paths and CDI names (vendor.com/class=name).
func parseDevices(values []string) ([]container.DeviceMapping, []container.DeviceRequest, error) {
	mappings := []container.DeviceMapping{}
	var cdi []string
	for _, value := range values {
		if isCDIName(value) {
			cdi = append(cdi, value)
			continue
		}
		mapping, err := parseDevice(value)
		if err != nil {
			return nil, nil, err
		}
		mappings = append(mappings, mapping)
	}
	if len(cdi) == 0 {
		return mappings, nil, nil
	}
	return mappings, []container.DeviceRequest{{Driver: "cdi", DeviceIDs: cdi}}, nil
}

// parseDevice reads HOST[:CONTAINER[:PERMISSIONS]]; the middle part may be the permissions.
func parseDevice(value string) (container.DeviceMapping, error) {
	parts := strings.Split(value, ":")
	if len(parts) > 3 || parts[0] == "" {
		return container.DeviceMapping{}, fmt.Errorf("invalid device specification: %s", value)
	}
	if !path.IsAbs(parts[0]) {
		return container.DeviceMapping{}, fmt.Errorf("%s is not an absolute path", parts[0])
	}
	mapping := container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
	switch {
	case len(parts) == 3:
		mapping.PathInContainer, mapping.CgroupPermissions = parts[1], parts[2]
		if !isDeviceMode(parts[2]) {
			return container.DeviceMapping{}, fmt.Errorf("bad mode specified: %s", parts[2])
		}
	case len(parts) == 2 && isDeviceMode(parts[1]):
		mapping.CgroupPermissions = parts[1]
	case len(parts) == 2:
		mapping.PathInContainer = parts[1]
	}
	if !path.IsAbs(mapping.PathInContainer) {
		return container.DeviceMapping{}, fmt.Errorf("%s is not an absolute path", mapping.PathInContainer)
	}
	return mapping, nil
}

// isDeviceMode reports whether mode is made of r, w and m, each at most once.
func isDeviceMode(mode string) bool {
	seen := map[rune]bool{}
	for _, r := range mode {
		if !strings.ContainsRune("rwm", r) || seen[r] {
			return false
		}
		seen[r] = true
	}
	return mode != ""
}

// isCDIName reports whether value is a qualified name of the Container Device Interface.
func isCDIName(value string) bool {
	kind, name, found := strings.Cut(value, "=")
	vendor, class, slash := strings.Cut(kind, "/")
	return found && slash && vendor != "" && class != "" && name != "" && !strings.Contains(class, "/")
}

// validateDeviceCgroupRule checks the form of the kernel's devices.allow: "c 1:3 rwm".
func validateDeviceCgroupRule(value string) (string, error) {
	if regexp.MustCompile(`^[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$`).MatchString(value) {
		return value, nil
	}
	return value, errors.New("invalid device cgroup format '" + value + "'")
}
