package store_test

import (
	"testing"

	"github.com/fnlb/fnlb/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m, nil) }

// TestDouble: the database that our tests pretend does what the real ones do.
func TestDouble(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Fixture { return storetest.Fixture{Open: storetest.NewMemory().Open} })
}
