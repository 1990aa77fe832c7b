package network

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// What a start and an end have to wait for, alone and among 200 others: from the pool, a
// rest between the starts, and back to back.
func BenchmarkSandbox(b *testing.B) {
	for _, there := range []int{0, 200} {
		for _, rest := range []time.Duration{0, 30 * time.Millisecond} {
			b.Run(fmt.Sprintf("beside %d, %v apart", there, rest), func(b *testing.B) {
				g := newGround(b)
				n := g.n
				for i := range there {
					s := joinForBench(b, n, fmt.Sprintf("there%d", i))
					defer s.Netns.Close()
					if err := n.Publish(b.Context(), s.ID, nil); err != nil {
						b.Fatal(err)
					}
				}
				var join, publish, leave []time.Duration
				step := func(samples *[]time.Duration, do func() error) {
					begin := time.Now()
					if err := do(); err != nil {
						b.Fatal(err)
					}
					*samples = append(*samples, time.Since(begin))
				}
				for b.Loop() {
					time.Sleep(rest)
					var s *Sandbox
					step(&join, func() error { s = joinForBench(b, n, "one"); return nil })
					step(&publish, func() error {
						return n.Publish(b.Context(), "one", []Port{{Proto: "tcp", HostIP: s.Endpoints[0].Gateway4.Next(), HostPort: 8080, ContainerPort: 80}})
					})
					s.Netns.Close()
					step(&leave, func() error { return n.Leave(b.Context(), "one") })
				}
				median := func(samples []time.Duration) float64 {
					slices.Sort(samples)
					return float64(samples[len(samples)/2].Microseconds()) / 1000
				}
				b.ReportMetric(median(join), "join-ms")
				b.ReportMetric(median(publish), "publish-ms")
				b.ReportMetric(median(leave), "leave-ms")
			})
		}
	}
}

func joinForBench(b *testing.B, n *Networks, id string) *Sandbox {
	s, err := n.Join(b.Context(), SandboxRequest{ID: id, Name: id, Endpoints: []EndpointRequest{{Network: "bridge", Names: []string{id, "short" + id}}}})
	if err != nil {
		b.Fatal(err)
	}
	return s
}
