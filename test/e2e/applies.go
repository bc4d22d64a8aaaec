package e2e

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/fnlb/fnlb/model"
)

// Applies counts what reached HAProxy by a method since the start, by fnlb_applies_total: /1/lb/changes lists only the last ones.
func (b *Balancer) Applies(method model.Method) int {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.Mgmt+"/1/lb/metrics", http.NoBody)
	if err != nil {
		b.T.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.T.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b.T.Fatalf("metrics: status %d", resp.StatusCode)
	}
	n := 0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), `fnlb_applies_total{method="`+string(method)+`",result="ok"`)
		if !ok {
			continue
		}
		_, value, _ := strings.Cut(text, "} ")
		count, err := strconv.ParseFloat(value, 64)
		if err != nil {
			b.T.Fatalf("metrics: %q: %v", lines.Text(), err)
		}
		n += int(count)
	}
	if err := lines.Err(); err != nil {
		b.T.Fatal(err)
	}
	return n
}
