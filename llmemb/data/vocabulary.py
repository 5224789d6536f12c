"""The words of the generated marketplace: departments, categories, styles, invented brands."""

from typing import NamedTuple


class Category(NamedTuple):
    """One leaf of the category tree; ``goes_with`` names what people tend to buy next."""

    department: str
    name: str
    products: tuple[str, ...]
    uses: tuple[str, ...]
    typical_price: float
    goes_with: tuple[str, ...]


class Style(NamedTuple):
    """A look that a buyer likes across categories."""

    adjectives: tuple[str, ...]
    colours: tuple[str, ...]
    sentence: str


CATEGORIES = (
    Category(
        "Home", "Lighting",
        ("Desk Lamp", "Floor Lamp", "Pendant Light", "Wall Sconce", "Night Light"),
        ("reading in the evening", "a dark hallway", "the bedside table"), 45, ("Storage", "Rugs"),
    ),
    Category(
        "Home", "Kitchenware",
        ("Frying Pan", "Chef's Knife", "Mixing Bowl", "Saucepan", "Cutting Board"),
        ("everyday cooking", "baking bread", "a small kitchen"), 35, ("Camp Kitchen", "Storage"),
    ),
    Category(
        "Home", "Bedding",
        ("Duvet Cover", "Pillow", "Fitted Sheet", "Wool Blanket", "Mattress Topper"),
        ("warm summer nights", "light sleepers", "the guest room"), 55, ("Bath", "Lighting"),
    ),
    Category(
        "Home", "Storage",
        ("Wicker Basket", "Shelf Unit", "Shoe Rack", "Drawer Organiser", "Coat Stand"),
        ("a tidy hallway", "the wardrobe", "small flats"), 40, ("Rugs", "Kitchenware"),
    ),
    Category(
        "Home", "Rugs",
        ("Hallway Runner", "Area Rug", "Door Mat", "Sheepskin Throw", "Bath Mat"),
        ("wooden floors", "the living room", "cold feet in the morning"), 70, ("Bedding", "Lighting"),
    ),
    Category(
        "Outdoor", "Tents",
        ("Two-Person Tent", "Family Tent", "Tarp Shelter", "Bivouac", "Beach Shelter"),
        ("weekend camping", "windy ridges", "festivals"), 150, ("Sleeping Gear", "Camp Kitchen"),
    ),
    Category(
        "Outdoor", "Sleeping Gear",
        ("Sleeping Bag", "Inflatable Mat", "Camping Pillow", "Hammock", "Bag Liner"),
        ("nights below zero", "light packing", "mountain huts"), 80, ("Backpacks", "Tents"),
    ),
    Category(
        "Outdoor", "Backpacks",
        ("Day Pack", "Trekking Pack", "Hydration Vest", "Dry Bag", "Waist Pack"),
        ("day hikes", "long treks", "rainy commutes"), 90, ("Hiking Footwear", "Sleeping Gear"),
    ),
    Category(
        "Outdoor", "Camp Kitchen",
        ("Gas Stove", "Cooking Pot Set", "Enamel Mug", "Folding Cutlery", "Water Filter"),
        ("boiling water fast", "meals at the campsite", "backcountry trips"), 38, ("Tents", "Backpacks"),
    ),
    Category(
        "Outdoor", "Hiking Footwear",
        ("Hiking Boots", "Trail Shoes", "Wool Hiking Socks", "Gaiters", "Trekking Sandals"),
        ("wet rock", "long descents", "muddy paths"), 95, ("Running", "Backpacks"),
    ),
    Category(
        "Beauty", "Skin Care",
        ("Face Cream", "Cleansing Gel", "Vitamin C Serum", "Clay Mask", "Sun Lotion"),
        ("dry skin", "oily skin", "sensitive skin in winter"), 24, ("Makeup", "Bath"),
    ),
    Category(
        "Beauty", "Hair Care",
        ("Shampoo", "Conditioner", "Hair Oil", "Curl Cream", "Heat Protection Spray"),
        ("curly hair", "damaged ends", "fine hair without volume"), 18, ("Skin Care", "Fragrance"),
    ),
    Category(
        "Beauty", "Makeup",
        ("Lipstick", "Mascara", "Foundation", "Eyeshadow Palette", "Brow Pencil"),
        ("a natural look", "long evenings", "beginners"), 21, ("Skin Care", "Fragrance"),
    ),
    Category(
        "Beauty", "Fragrance",
        ("Eau de Parfum", "Body Mist", "Scented Candle", "Reed Diffuser", "Solid Perfume"),
        ("summer days", "a gift", "calm evenings"), 48, ("Bath", "Makeup"),
    ),
    Category(
        "Beauty", "Bath",
        ("Bath Salt", "Body Scrub", "Shower Oil", "Hand Soap", "Bath Bomb Set"),
        ("tired muscles", "a slow Sunday", "rough hands"), 16, ("Skin Care", "Hair Care"),
    ),
    Category(
        "Electronics", "Headphones",
        ("Wireless Earbuds", "Over-Ear Headphones", "Gaming Headset", "Sport Earphones", "Studio Headphones"),
        ("noisy trains", "video calls", "mixing music at home"), 110, ("Speakers", "Chargers"),
    ),
    Category(
        "Electronics", "Speakers",
        ("Bluetooth Speaker", "Soundbar", "Bookshelf Speakers", "Shower Speaker", "Subwoofer"),
        ("film nights", "garden parties", "the kitchen counter"), 130, ("Headphones", "Cameras"),
    ),
    Category(
        "Electronics", "Keyboards",
        ("Mechanical Keyboard", "Wireless Mouse", "Wrist Rest", "Trackball", "Number Pad"),
        ("long hours of typing", "fast games", "a compact desk"), 75, ("Chargers", "Lighting"),
    ),
    Category(
        "Electronics", "Chargers",
        ("USB-C Charger", "Power Bank", "Braided Cable", "Wireless Charging Pad", "Travel Adapter"),
        ("two devices at once", "long flights", "the car"), 30, ("Headphones", "Keyboards"),
    ),
    Category(
        "Electronics", "Cameras",
        ("Action Camera", "Instant Camera", "Tripod", "Camera Strap", "Memory Card"),
        ("travel films", "family portraits", "filming under water"), 140, ("Chargers", "Backpacks"),
    ),
    Category(
        "Sports", "Running",
        ("Running Shoes", "Running Shorts", "Reflective Vest", "Running Belt", "Compression Socks"),
        ("marathon training", "dark mornings", "first five kilometres"), 60, ("Strength Training", "Headphones"),
    ),
    Category(
        "Sports", "Yoga",
        ("Yoga Mat", "Cork Block", "Meditation Cushion", "Stretch Strap", "Yoga Leggings"),
        ("slow morning practice", "hot yoga", "beginners with stiff backs"), 36, ("Strength Training", "Bath"),
    ),
    Category(
        "Sports", "Cycling",
        ("Bike Helmet", "Bike Light Set", "Cycling Gloves", "Pannier Bag", "Floor Pump"),
        ("commuting in traffic", "gravel roads", "weekend tours"), 50, ("Running", "Cameras"),
    ),
    Category(
        "Sports", "Swimming",
        ("Swim Goggles", "Swim Cap", "Training Fins", "Kickboard", "Swimsuit"),
        ("open water", "lane training", "children who learn to swim"), 28, ("Running", "Bath"),
    ),
    Category(
        "Sports", "Strength Training",
        ("Kettlebell", "Resistance Band", "Adjustable Dumbbell", "Pull-Up Bar", "Weight Bench"),
        ("home workouts", "rehabilitation", "explosive power"), 65, ("Yoga", "Running"),
    ),
    Category(
        "Toys", "Building Sets",
        ("Castle Building Set", "Train Set", "Marble Run", "Magnetic Tiles", "Robot Kit"),
        ("children from six", "rainy afternoons", "young engineers"), 48, ("Puzzles", "Craft Kits"),
    ),
    Category(
        "Toys", "Puzzles",
        ("Jigsaw Puzzle", "Wooden Puzzle", "Puzzle Cube", "Floor Puzzle", "Logic Puzzle"),
        ("quiet evenings", "toddlers", "the whole family"), 19, ("Board Games", "Building Sets"),
    ),
    Category(
        "Toys", "Plush",
        ("Teddy Bear", "Plush Rabbit", "Hand Puppet", "Plush Dinosaur", "Baby Comforter"),
        ("newborns", "bedtime", "small explorers"), 22, ("Puzzles", "Bedding"),
    ),
    Category(
        "Toys", "Craft Kits",
        ("Watercolour Set", "Bead Kit", "Modelling Clay", "Sewing Kit", "Origami Paper"),
        ("creative hands", "birthday parties", "school holidays"), 17, ("Plush", "Puzzles"),
    ),
    Category(
        "Toys", "Board Games",
        ("Strategy Game", "Card Game", "Dice Game", "Party Game", "Chess Set"),
        ("two players", "game night with friends", "the long drive"), 32, ("Puzzles", "Speakers"),
    ),
    Category(
        "Garden", "Planters",
        ("Flower Pot", "Hanging Planter", "Raised Bed", "Window Box", "Plant Stand"),
        ("a balcony", "fresh herbs", "large indoor plants"), 33, ("Seeds", "Watering"),
    ),
    Category(
        "Garden", "Hand Tools",
        ("Pruning Shears", "Hand Trowel", "Garden Fork", "Weeding Knife", "Gardening Gloves"),
        ("rose bushes", "heavy soil", "small hands"), 23, ("Seeds", "Planters"),
    ),
    Category(
        "Garden", "Seeds",
        ("Tomato Seeds", "Wildflower Mix", "Herb Seeds", "Lawn Seed", "Sunflower Seeds"),
        ("bees and butterflies", "shady corners", "the first spring sowing"), 7, ("Planters", "Watering"),
    ),
    Category(
        "Garden", "Watering",
        ("Watering Can", "Garden Hose", "Sprinkler", "Drip Irrigation Kit", "Rain Barrel"),
        ("dry summers", "seedlings", "holidays away from home"), 37, ("Hand Tools", "Planters"),
    ),
    Category(
        "Garden", "Bird Care",
        ("Bird Feeder", "Nesting Box", "Bird Bath", "Sunflower Bird Food", "Suet Balls"),
        ("blue tits and robins", "cold winters", "watching from the window"), 20, ("Seeds", "Cat Furniture"),
    ),
    Category(
        "Pets", "Dog Walking",
        ("Dog Lead", "Dog Harness", "Dog Collar", "Dog Raincoat", "Treat Pouch"),
        ("strong pullers", "night walks", "puppies"), 25, ("Dog Toys", "Grooming"),
    ),
    Category(
        "Pets", "Dog Toys",
        ("Rope Toy", "Chew Bone", "Squeaky Ball", "Snuffle Mat", "Frisbee"),
        ("heavy chewers", "bored dogs", "games in the park"), 14, ("Pet Bowls", "Dog Walking"),
    ),
    Category(
        "Pets", "Cat Furniture",
        ("Scratching Post", "Cat Tree", "Cat Tunnel", "Window Perch", "Cat Bed"),
        ("indoor cats", "old cats", "sleeping in the sun"), 58, ("Pet Bowls", "Grooming"),
    ),
    Category(
        "Pets", "Pet Bowls",
        ("Food Bowl", "Water Fountain", "Slow Feeder", "Feeding Mat", "Travel Bowl"),
        ("fast eaters", "fussy drinkers", "two pets at home"), 22, ("Grooming", "Dog Toys"),
    ),
    Category(
        "Pets", "Grooming",
        ("Pet Brush", "Nail Clipper", "Pet Shampoo", "Flea Comb", "Drying Towel"),
        ("long coats", "shedding season", "nervous animals"), 18, ("Dog Walking", "Cat Furniture"),
    ),
)  # fmt: skip

BRANDS = {
    "Home": ("Nordvik", "Casa Lumen", "Hearthwell", "Oakline", "Marisol Home", "Tidewick", "Plain & Found"),
    "Outdoor": ("Ridgeback", "Fernpeak", "Coldbrook", "Trailhaus", "Summit Thread", "Wildmere", "Basalt"),
    "Beauty": ("Aveline", "Petal & Ash", "Lumière Verte", "Sōra", "Bare Orchard", "Maison Calla", "Glowfield"),
    "Electronics": ("Voltera", "Sonique", "Pixelward", "Hexa", "Brightwave", "Tonal", "Kinetik"),
    "Sports": ("Strideon", "Aquilo", "Ironbark", "Velora", "Pulsegear", "Northlane", "Flexa"),
    "Toys": ("Tumbleton", "Brickory", "Little Comet", "Puzzlewick", "Oddfox", "Merrymake", "Woodling"),
    "Garden": ("Greenmantle", "Rootwise", "Thistle & Spade", "Bloomery", "Sunnyfield", "Mossgate", "Potterby"),
    "Pets": ("Wagsworth", "Purrfield", "Barkley & Co", "Whiskerly", "Pawstead", "Fetchit", "Furrow"),
}

STYLES = (
    Style(("Minimalist", "Slim", "Plain"), ("White", "Light Grey", "Matte Black"),
          "Clean lines and nothing that is not needed."),
    Style(("Rustic", "Hand-Finished", "Weathered"), ("Walnut", "Chestnut", "Clay"),
          "A warm country look that ages well."),
    Style(("Playful", "Bright", "Cheerful"), ("Sunny Yellow", "Coral", "Sky Blue"),
          "Bold colours that make people smile."),
    Style(("Luxury", "Premium", "Signature"), ("Gold", "Ivory", "Deep Navy"),
          "The finest quality, in an elegant gift box."),
    Style(("Rugged", "Heavy-Duty", "Tough"), ("Olive", "Sand", "Charcoal"),
          "Built to take knocks, rain and years of hard use."),
    Style(("Organic", "Natural", "Eco"), ("Sage Green", "Oat", "Moss"),
          "Made from renewable materials, free of plastic."),
    Style(("Smart", "Precision", "Advanced"), ("Graphite", "Silver", "Electric Blue"),
          "Engineered to the last detail with modern technology."),
    Style(("Classic", "Traditional", "Heritage"), ("Burgundy", "Forest Green", "Cream"),
          "A timeless design, unchanged for generations."),
)  # fmt: skip
