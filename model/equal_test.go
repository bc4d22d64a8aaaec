package model

import (
	"reflect"
	"testing"
)

// TestEqual: whatever differs in a service or its check, the two are not equal.
func TestEqual(t *testing.T) {
	t.Parallel()
	// A field that is added later is filled here by itself, and Equal has to see it.
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			v.SetUint(1)
		case reflect.Int, reflect.Int64:
			v.SetInt(1)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0))
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		default:
			t.Fatalf("kind %s is not known here", v.Kind())
		}
	}
	full := func() (s Service) {
		fill(reflect.ValueOf(&s).Elem())
		return s
	}
	if !full().Equal(full()) || !(Service{}).Equal(Service{}) {
		t.Fatal("the same are not equal")
	}
	var each func(path string, at func(*Service) reflect.Value)
	each = func(path string, at func(*Service) reflect.Value) {
		s := full()
		v := at(&s)
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				each(path+"."+v.Type().Field(i).Name, func(s *Service) reflect.Value { return at(s).Field(i) })
			}
			return
		case reflect.Slice:
			each(path+"[0]", func(s *Service) reflect.Value { return at(s).Index(0) })
		}
		v.SetZero()
		if s.Equal(full()) || full().Equal(s) {
			t.Errorf("another %s is not seen", path)
		}
	}
	each("Service", func(s *Service) reflect.Value { return reflect.ValueOf(s).Elem() })
}
