package mysql_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/storetest"
)

// TestTooLarge: a record that the server does not take is refused, and the others of its transaction are made.
func TestTooLarge(t *testing.T) {
	s := storetest.SharedMariaDB(t)
	name := s.Database(t)
	if err := s.SQL("mysql", "SET GLOBAL max_allowed_packet = 524288"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.SQL("mysql", "SET GLOBAL max_allowed_packet = DEFAULT"); err != nil {
			t.Error(err)
		}
	}()
	db, err := opener(t, s.URL(name, nil))(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// Each of the small ones fits, all together do not.
	var edits []store.Edit
	for i := range 20 {
		edits = append(edits, storetest.Put(fmt.Sprintf("n/%d", i), `"`+strings.Repeat("y", 100_000)+`"`))
	}
	edits = append(edits, storetest.Put("n/large", `"`+strings.Repeat("'", store.MaxValue-2)+`"`))
	errs, err := db.Apply(t.Context(), edits)
	if err != nil {
		t.Fatal(err)
	}
	var refused *store.Refused
	if !errors.As(errs[20], &refused) || errors.Join(errs[:20]...) != nil {
		t.Errorf("answers are %v", errs)
	}
	c, err := db.Load(t.Context())
	if err != nil || len(c.Records) != 20 {
		t.Errorf("%d records, %v", len(c.Records), err)
	}
	if errs, err := db.Apply(t.Context(), edits[20:]); err != nil || !errors.As(errs[0], &refused) {
		t.Errorf("alone: %v, %v", errs, err)
	}
}
