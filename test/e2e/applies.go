package e2e

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/fnlb/fnlb/model"
)

// Applies counts what reached HAProxy by a method since the start, by fnlb_applies_total: /1/lb/changes lists only the last ones.
func (b *Balancer) Applies(method model.Method) int {
	b.T.Helper()
	metrics, err := exchange(b.Mgmt, http.MethodGet, "/1/lb/metrics", "")
	if err != nil {
		b.T.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(metrics)) {
		text, ok := strings.CutPrefix(line, `fnlb_applies_total{method="`+string(method)+`",result="ok"} `)
		if !ok {
			continue
		}
		count, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			b.T.Fatalf("metrics: %q: %v", line, err)
		}
		n += int(count)
	}
	return n
}
