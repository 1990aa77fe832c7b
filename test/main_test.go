package test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/test/compatibility"
	"berth/testkit"
)

var writeCompatibility = flag.Bool("compatibility", false, "write docs/compatibility.md from what the tests have shown")

// TestMain compares docs/compatibility.md with what the tests have shown once they are over.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if code == 0 {
		code = compatibilityPage()
	}
	os.Exit(code)
}

func compatibilityPage() int {
	path := filepath.Join(testkit.Root(), "docs", "compatibility.md")
	before, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return pageError(err)
	}
	names, err := testNames()
	if err != nil {
		return pageError(err)
	}
	exists := func(name string) bool { return names[name] }
	records := testkit.Recorded()
	given := func(name string) string { return flag.Lookup("test." + name).Value.String() }
	chosen := given("run")
	// A part of a test shows only a part of what the test proves, and so may another runtime.
	parts := strings.Contains(chosen, "/") || given("skip") != "" || os.Getenv("BERTH_TEST_RUNTIME") != ""
	whole := !parts && chosen == "" && given("list") == "" && !testing.Short()
	if *writeCompatibility {
		// Records of earlier runs count too.
		if file := os.Getenv("BERTH_RECORD"); file != "" {
			if records, err = testkit.ReadRecords(file); err != nil {
				return pageError(err)
			}
		}
		page := compatibility.Page(string(before), records, exists, whole)
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			return pageError(err)
		}
		return 0
	}
	if parts {
		records = nil
	}
	wrong := compatibility.Check(string(before), records, exists, whole)
	if whole {
		skipped := compatibility.Skipped(string(before), records)
		for _, test := range slices.Sorted(maps.Keys(skipped)) {
			fmt.Printf("docs/compatibility.md: %s, which proves %d rows, was skipped\n", test, skipped[test])
		}
	}
	for _, w := range wrong {
		fmt.Println("docs/compatibility.md:", w)
	}
	if len(wrong) > 0 {
		fmt.Println("docs/compatibility.md: `make compatibility` writes it anew; with COMPATIBILITY='-run REGEXP' the rows of these tests alone")
	}
	if len(wrong) > 0 && chosen == "" {
		return 1
	}
	return 0
}

func pageError(err error) int {
	fmt.Println("docs/compatibility.md:", err)
	return 1
}

// testNames are the tests of this package.
func testNames() (map[string]bool, error) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for _, m := range declared.FindAllStringSubmatch(string(data), -1) {
			names[m[1]] = true
		}
	}
	return names, nil
}
